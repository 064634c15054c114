"""What is computed from a fit: latents, rates, new counts, loadings."""

import inspect
import re
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from fits import quick
from torch import nn

import pyroscvi as ps
from pyroscvi import distributions
from pyroscvi.guides import Flow, FullCovariance, LowRank, MeanField, SpatialGNN
from pyroscvi.models import CVAE, GMVAE, LDVAE, PPCA, SCVI
from pyroscvi.parts import (
    NB,
    ZINB,
    BatchNorm,
    LatentSize,
    Linear,
    OneHot,
    Poisson,
    RandomDispersion,
    ReadCell,
    SizeFactor,
)
from pyroscvi.parts import VampPrior as Vamp
from pyroscvi.program import Model


@pytest.fixture
def nb(cells):
    return quick(SCVI(latent=3, likelihood=NB()), FullCovariance(), cells, epochs=20, lr=1e-2)


# Latent


@pytest.mark.parametrize("guide", [MeanField(), FullCovariance(), LowRank(), Flow(), SpatialGNN()], ids=repr)
def test_latent_is_the_mean_of_its_draws(guide, cells):
    f = quick(SCVI(latent=3), guide, cells)
    mean, draws = f.latent(cells), f.latent(cells, samples=4000)
    assert mean.shape == (60, 3)
    assert draws.shape == (4000, 60, 3)
    error = draws.std(0) / np.sqrt(4000)
    assert (np.abs(draws.mean(0) - mean) < 5 * error).all()


def test_latents_do_not_depend_on_minibatches(nb, cells):
    np.testing.assert_allclose(nb.latent(cells, batch_size=7), nb.latent(cells), atol=1e-5)


def test_draws_come_from_the_seed(nb, cells):
    one, two, other = (nb.latent(cells, samples=2, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1])


def test_every_site_can_be_looked_at(cells):
    f = quick(LDVAE(latent=3, likelihood=NB(dispersion=RandomDispersion())), MeanField(), cells)
    size, theta = f.latent(cells, site="l"), f.latent(cells, site="theta")
    assert size.shape == (60, 1)
    assert theta.shape == (12,)
    assert (size > 0).all()
    q = f.guide.posteriors(cells)["l"]
    exact = (q.mean + q.variance / 2).exp().detach().numpy()
    np.testing.assert_allclose(size, exact, rtol=0.2)
    with pytest.raises(KeyError, match="no site 'w'; it has theta, l, z"):
        f.latent(cells, site="w")


def test_an_anndata_is_read_through_the_fields(cells):
    genes = [f"g{i}" for i in range(12)]
    obs = pd.DataFrame(
        {"donor": pd.Categorical(np.where(np.arange(60) % 2, "b", "a"))}, index=[str(i) for i in range(60)]
    )
    adata = anndata.AnnData(cells.x.numpy(), obs, pd.DataFrame(index=genes))
    f = quick(SCVI(latent=2), MeanField(), ps.Fields(batch="donor").read(adata))
    again = adata[:, ::-1].copy()
    with pytest.warns(UserWarning, match="order"):
        turned = f.latent(again)
    np.testing.assert_allclose(turned, f.latent(adata), atol=1e-6)
    assert f.denoise(adata, given={"batch": "b"}).shape == (60, 12)
    assert f.loadings is not None
    assert f.genes == tuple(genes)
    assert f.levels == {"batch": ("a", "b")}


def test_what_the_fit_cannot_read_is_an_error(nb, cells):
    with pytest.raises(TypeError, match="give Cells"):
        nb.latent(np.ones((3, 12)))
    with pytest.raises(ValueError, match="knows 12 genes, and these cells have 5"):
        nb.latent(ps.Cells(torch.ones(3, 5)))
    with pytest.raises(ValueError, match="no cells"):
        nb.latent(cells.subset(torch.arange(0)))


def test_columns_and_codes_that_mean_something_else_are_an_error(nb, cells):
    with pytest.raises(ValueError, match="gene 'gene11' where the fit has 'gene0'"):
        nb.latent(replace(cells, genes=cells.genes[::-1]))
    with pytest.raises(ValueError, match="have the levels b, a of 'batch', the fit a, b"):
        nb.latent(replace(cells, levels={**cells.levels, "batch": ("b", "a")}))
    nameless = ps.Cells(cells.x, {"batch": torch.zeros(60, dtype=torch.long)}, levels={"batch": ("a",)})
    assert nb.latent(nameless).shape == (60, 3)


# Denoise


@pytest.mark.parametrize("likelihood", [Poisson(), NB(), ZINB()], ids=repr)
def test_rates_are_shares_of_the_library(likelihood, cells):
    f = quick(SCVI(latent=3, likelihood=likelihood), MeanField(), cells)
    assert f.denoise(cells).shape == (60, 12)
    np.testing.assert_allclose(f.denoise(cells).sum(1), cells.library[:, 0], rtol=1e-4)
    np.testing.assert_allclose(f.denoise(cells, library=1.0).sum(1), 1, rtol=1e-4)
    np.testing.assert_allclose(f.denoise(cells, library=1e4).sum(1), 1e4, rtol=1e-4)


def test_rates_are_what_draws_average_to(nb, cells):
    few = cells.subset(torch.arange(6))
    rate, drawn = nb.denoise(few, samples=200), nb.generate(few, samples=800)
    assert (np.abs(drawn.mean(0) - rate) < 5 * drawn.std(0) * (1 / np.sqrt(800) + 1 / np.sqrt(200))).all()


def test_chosen_genes_by_name(nb, cells):
    whole = nb.denoise(cells)
    np.testing.assert_allclose(nb.denoise(cells, genes=["gene7", "gene2"]), whole[:, [7, 2]])
    np.testing.assert_allclose(
        nb.denoise(cells, genes=["gene7"], batch_size=60), nb.denoise(cells, batch_size=60)[:, [7]]
    )
    with pytest.raises(KeyError, match="no gene 'SOX2'"):
        nb.denoise(cells, genes=["SOX2"])


def test_an_intervention_equals_relabelling_if_the_guide_ignores_the_field(cells):
    """The guide does not look at the batch: intervening is the same as having relabelled the cells."""
    f = quick(CVAE(latent=3, condition=OneHot("drug") + OneHot("batch")), MeanField(), cells, epochs=10, lr=1e-2)
    intervened = f.denoise(cells, given={"drug": "y"}, seed=4)
    relabelled = replace(cells, categories={**cells.categories, "drug": torch.full((60,), 2)})
    np.testing.assert_allclose(intervened, f.denoise(relabelled, seed=4), rtol=1e-5)
    assert np.abs(intervened - f.denoise(cells, given={"drug": "control"}, seed=4)).max() > 0.01
    each = [f.levels["drug"][code] for code in cells.categories["drug"]]
    np.testing.assert_allclose(
        f.denoise(cells, given={"drug": each}, seed=4, batch_size=7), f.denoise(cells, seed=4, batch_size=7), rtol=1e-5
    )


def test_an_intervention_does_not_change_what_the_guide_reads(cells):
    """An intervention changes the model. A guide that reads batches reads the recorded ones."""
    f = quick(SCVI(latent=3), MeanField(encoder=ReadCell(condition=OneHot("batch"))), cells, epochs=10, lr=1e-2)
    half = cells.batch.numpy() == 0
    np.testing.assert_allclose(
        f.denoise(cells, given={"batch": "a"}, seed=1)[half], f.denoise(cells, seed=1)[half], rtol=1e-5
    )


def test_a_vamp_prior_is_not_intervened_upon(cells):
    f = quick(SCVI(latent=3, prior=Vamp(components=4)), MeanField(encoder=ReadCell(condition=OneHot("batch"))), cells)
    each = [f.levels["batch"][code] for code in cells.batch]
    np.testing.assert_allclose(f.denoise(cells, given={"batch": each}, seed=1), f.denoise(cells, seed=1), rtol=1e-5)


@pytest.mark.parametrize(
    "ask", [lambda f, c: f.denoise(c, given={"batch": "c"}), lambda f, c: f.generate(n=3, given={"batch": "c"})]
)
def test_an_unknown_level_is_a_named_error(ask, nb, cells):
    with pytest.raises(KeyError, match=re.escape("no level 'c' of 'batch'; there are a, b")):
        ask(nb, cells)


@pytest.mark.parametrize(
    "ask", [lambda f, c: f.denoise(c, given={"drug": "x"}), lambda f, c: f.generate(n=3, given={"drug": "x"})]
)
def test_a_condition_that_the_model_ignores_is_an_error(ask, nb, cells):
    with pytest.raises(ValueError, match=r"does not read 'drug', so setting it would change nothing; it reads batch"):
        ask(nb, cells)


def test_an_unknown_field_is_a_named_error(nb, cells):
    with pytest.raises(KeyError, match="no field 'donor'; it knows batch, label, drug"):
        nb.denoise(cells, given={"donor": "a"})
    with pytest.raises(ValueError, match="one for each of the 60 cells, not 2"):
        nb.denoise(cells, given={"batch": ["a", "b"]})


class TwoKinds(Model):
    """Counts depend directly on the kind of the cell, not only through z."""

    def build(self, dims):
        self.w = nn.Parameter(torch.tensor([0.3, -0.2]))
        self.log_rate = nn.Parameter(torch.randn(2, dims.genes))

    def model(self, cells):
        with cells.plate():
            k = pyro.sample("k", dist.Categorical(logits=self.w), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            log_mu = self.log_rate[k] + 0.1 * z
            pyro.sample("x", distributions.Poisson(log_mu), obs=cells.x)


def test_rates_are_weighted_by_the_posterior_of_the_kinds(cells):
    f = quick(TwoKinds(), MeanField(), cells, epochs=1, lr=1e-6)
    few = cells.subset(torch.arange(5))
    with torch.no_grad():
        draws = torch.as_tensor(f.latent(few, samples=20_000)).unsqueeze(-2)
        log_mu = f.model.log_rate + 0.1 * draws
        log_p = f.model.w.log_softmax(-1) + dist.Poisson(log_mu.exp()).log_prob(few.x.unsqueeze(1)).sum(-1)
        weights = log_p.softmax(-1)
        each = (weights.unsqueeze(-1) * log_mu.exp()).sum(2).numpy()
    exact, spread = each.mean(0), each.std(0)
    assert (np.abs(f.denoise(few, samples=400) - exact) < 5 * spread / np.sqrt(400) + 1e-5).all()
    drawn = f.generate(few, samples=400)
    assert (np.abs(drawn.mean(0) - exact) < 5 * drawn.std(0) / np.sqrt(400)).all()


# Generate


def test_counts_once_more(nb, cells):
    once, thrice = nb.generate(cells), nb.generate(cells, samples=3)
    assert once.shape == (60, 12)
    assert thrice.shape == (3, 60, 12)
    assert (thrice == thrice.round()).all()
    assert (thrice >= 0).all()
    np.testing.assert_array_equal(once, nb.generate(cells))
    assert not np.array_equal(thrice[0], thrice[1])
    assert not np.array_equal(once, nb.generate(cells, seed=1))


def test_new_cells_have_the_size_that_they_were_given(cells):
    f = quick(SCVI(latent=3, likelihood=Poisson()), MeanField(), cells)
    totals = f.generate(n=400, size=1000.0).sum(1)
    assert abs(totals.mean() - 1000) < 5 * np.sqrt(1000 / 400)
    each = f.generate(n=2, size=[10.0, 10_000.0]).sum(1)
    assert each[0] < 100 < 9_000 < each[1]


@pytest.mark.parametrize("size", [None, LatentSize(), SizeFactor()], ids=repr)
def test_new_cells_have_sizes_like_those_in_training(size, cells):
    cells = replace(cells, size_factor=cells.library[:, 0])
    f = quick(SCVI(latent=3, likelihood=Poisson(), **({"size": size} if size else {})), MeanField(), cells)
    totals = np.log(f.generate(n=2000).sum(1))
    for_real = np.log(cells.library.numpy())
    assert abs(totals.mean() - for_real.mean()) < 0.1
    assert 0.5 < totals.std() / np.hypot(for_real.std(), np.exp(-for_real.mean() / 2)) < 1.5


def test_sizes_of_new_cells_vary_as_those_of_their_batch(cells):
    f = quick(SCVI(latent=3, likelihood=Poisson()), MeanField(), cells)
    f.dims = replace(f.dims, log_size=torch.tensor([[6.0, 1.0], [9.0, 0.01]]))
    a, b = (np.log(f.generate(n=2000, given={"batch": level}).sum(1)) for level in ("a", "b"))
    np.testing.assert_allclose([a.mean(), b.mean()], [6, 9], atol=0.1)
    np.testing.assert_allclose([a.std(), b.std()], [1, 0.1], rtol=0.1)


def test_new_cells_follow_the_prior(cells):
    """PPCA has a known distribution of log counts: mean c, covariance W W' + sigma^2."""
    f = quick(PPCA(latent=2), MeanField(), cells, epochs=30, lr=1e-2)
    with torch.no_grad():
        f.model.c += 5  # far from the edge at zero
    y = np.log1p(f.generate(n=20_000))
    m = f.model
    with torch.no_grad():
        covariance = (m.W @ m.W.T + (2 * m.log_sigma).exp() * torch.eye(12)).numpy()
    np.testing.assert_allclose(y.mean(0), m.c.detach(), atol=0.05)
    np.testing.assert_allclose(np.cov(y.T), covariance, atol=0.1)


def test_new_cells_of_a_mixture_come_from_every_kind(cells):
    f = quick(GMVAE(latent=2, kinds=2), MeanField(), cells)
    with torch.no_grad():
        f.model.w.copy_(torch.tensor([0.0, -1e9]))
        f.model.m.copy_(torch.tensor([[9.0, 0.0], [-9.0, 0.0]]))
        one = f.generate(n=50, seed=1)
        f.model.w.copy_(torch.tensor([-1e9, 0.0]))
        two = f.generate(n=50, seed=1)
    assert np.abs(one.mean(0) - two.mean(0)).max() > 1


def test_new_cells_under_a_condition(cells):
    f = quick(CVAE(latent=3, condition=OneHot("drug"), decoder=Linear()), MeanField(), cells)
    with torch.no_grad():  # drug x, the second of the levels, switches gene 0 on
        f.model.decoder.heads["rho"].bias[0] = -10
        f.model.decoder.heads["rho"].weight[0, 3 + 1] = 20.0
    on, off = (f.generate(n=200, given={"drug": level}, size=100.0)[:, 0].mean() for level in ("x", "y"))
    assert on > 50 > 1 > off


def test_conditions_that_are_not_named_are_as_frequent_as_in_training(cells):
    from pyroscvi.analysis.generate import blank

    f = quick(SCVI(latent=2), MeanField(), cells.subset(torch.arange(45)))
    made = blank(f, 3000, {}, None, 0)
    assert f.record["levels"]["batch"] == {"a": 23, "b": 22}
    assert abs(made.batch.float().mean() - 22 / 45) < 0.05
    assert (
        abs((made.label == 0).float().mean() - f.record["levels"]["label"]["B"] / (cells.label[:45] >= 0).sum()) < 0.05
    )
    f.record["levels"]["batch"] = {"a": 0, "b": 5}
    assert (blank(f, 30, {}, None, 0).batch == 1).all()


def test_latents_that_cells_share_are_drawn_from_their_posterior(cells):
    f = quick(SCVI(latent=2, likelihood=NB(dispersion=RandomDispersion())), MeanField(), cells)
    with torch.no_grad():
        bias = f.guide.heads["theta"].bias
        bias[:12], bias[12:] = -8.0, -20.0  # hardly any zeros are left out by so small a theta
        wild = f.generate(n=100, size=1000.0)
        bias[:12] = 15.0
        tame = f.generate(n=100, size=1000.0)
    assert (wild == 0).mean() > 0.9
    assert (tame == 0).mean() < 0.5


@pytest.mark.parametrize("field", ["size", "library", "samples", "seed", "genes", "n", "cells"])
def test_a_field_may_have_the_name_of_an_option(field, cells):
    named = replace(cells, categories={field: cells.categories["drug"]}, levels={field: cells.levels["drug"]})
    f = quick(CVAE(latent=2, condition=OneHot(field)), MeanField(), named)
    x, control = (f.denoise(named, given={field: level}) for level in ("x", "control"))
    assert np.abs(x - control).max() > 0
    assert f.generate(n=3, given={field: "y"}).shape == (3, 12)
    assert f.generate(named, given={field: "y"}).shape == (60, 12)


def test_help_names_every_option():
    for method in (ps.Fit.denoise, ps.Fit.generate, ps.Fit.latent, ps.Fit.log_evidence, ps.Fit.calibrate):
        parameters = inspect.signature(method).parameters.values()
        assert not [p for p in parameters if p.kind is p.VAR_KEYWORD], method
        assert all(p.annotation is not p.empty for p in parameters), method
    for method in (ps.Fit.denoise, ps.Fit.decode, ps.Fit.generate, ps.Fit.latent):
        for name in list(inspect.signature(method).parameters)[2:]:
            assert re.search(rf"^    (\w+, )*{name}\b", method.__doc__, re.MULTILINE), (method, name)


def test_either_cells_or_a_number_of_them(nb, cells):
    for wrong in ({}, {"cells": cells, "n": 3}):
        with pytest.raises(ValueError, match="either cells, or n"):
            nb.generate(**wrong)


# Loadings


def test_loadings_are_the_weights_of_a_linear_decoder(cells):
    f = quick(LDVAE(latent=4), MeanField(), cells)
    table = f.loadings()
    assert list(table.index) == list(cells.genes)
    assert list(table.columns) == ["z0", "z1", "z2", "z3"]
    np.testing.assert_allclose(table, f.model.decoder.heads["rho"].weight[:, :4].detach(), atol=1e-6)


def test_loadings_are_scaled_by_a_batch_norm_as_it_stands(cells):
    f = quick(LDVAE(latent=3, decoder=Linear(bias=False, norm=BatchNorm())), MeanField(), cells)
    norm = f.model.decoder.norms["rho"].norm
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    expected = (scale.unsqueeze(-1) * f.model.decoder.heads["rho"].weight[:, :3]).detach()
    np.testing.assert_allclose(f.loadings(), expected, atol=1e-5)


def test_loadings_of_a_page_that_writes_its_map_out(cells):
    f = quick(PPCA(latent=3), MeanField(), cells)
    np.testing.assert_array_equal(f.loadings(), f.model.W.detach())


def test_no_loadings_without_a_linear_decoder(nb):
    with pytest.raises(ValueError, match=r"MLP\(\) is not linear, so it has no loadings: use decoder=Linear\(\)"):
        nb.loadings()
