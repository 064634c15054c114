"""The prior of cells in tissue is the Gaussian process that it claims to be; its loss and evidence follow from it."""

from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from command_line import run
from pyro.contrib.gp import kernels
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.analysis.smooth_field import precisions
from pyroscvi.data import Cells, Delaunay, Fields, Radius, simulated
from pyroscvi.data.predecessors import before, patches, sections
from pyroscvi.evidence.joint import Joint
from pyroscvi.guides import MeanField, SpatialGNN
from pyroscvi.inference.elbo import bound
from pyroscvi.models import SCVI
from pyroscvi.parts import CAR, NB, Field, Matern12, Matern32, StandardNormal
from pyroscvi.program import free_sites

KERNELS = {Matern32: kernels.Matern32, Matern12: kernels.Exponential}


def tissue(predecessors=6, cells=60):
    data = simulated(cells=cells, genes=8, sections=2)
    return Fields(spatial="spatial", section="section", predecessors=predecessors).read(data).to(dtype=torch.float64)


def sized(cells, guide=None, **prior):
    """A model with a field of two dimensions, and a guide whose encoder has weights to tell cells apart."""
    torch.manual_seed(0)
    model = SCVI(latent=2, prior=Field(**prior), likelihood=NB()).sized(cells.dims)
    guide = (guide or MeanField()).sized(model, cells)
    return model.double().eval(), guide.double().eval()


def places(n=30, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 5, (n, 2)))


def dense(place, kernel, a, r):
    """The covariances of the field and of z, from Pyro's kernels."""
    with pyro.get_param_store().scope():  # in which Pyro's kernels keep their values
        K = KERNELS[kernel](2, torch.tensor(a).double(), torch.tensor(r).double())(place).detach()
    return K, K + (1 - a) * torch.eye(len(place)).double()


def with_values(kernel, a, r):
    """A field of two dimensions with these strengths and lengthscales."""
    prior = Field(kernel=kernel()).sized(latent=2).double()
    with torch.no_grad():
        prior.raw_strengths.copy_((torch.tensor(a) / 0.99).logit())
        prior.log_lengthscales.copy_(torch.tensor(r).log())
    return prior


@pytest.mark.parametrize("kernel", [Matern32, Matern12])
def test_with_all_cells_as_predecessors_it_is_the_exact_gaussian_process(kernel):
    place, a, r = places(), (0.6, 0.9), (1.5, 0.7)
    prior = with_values(kernel, a, r)
    cells = Cells(torch.ones(30, 1), places=place, before=before(place.numpy(), 29, np.zeros(30, dtype=int)))
    weights, variance = prior.conditional(cells)
    z = torch.randn(30, 2, generator=torch.Generator().manual_seed(1)).double()
    loc = torch.einsum("jnm,nmj->nj", weights, z[cells.predecessors])
    log_p = torch.distributions.Normal(loc, variance.sqrt().T).log_prob(z).sum(0)
    for j, Q in enumerate(precisions(prior, replace(cells, graph=cells.before))):
        K, total = dense(place, kernel, a[j], r[j])
        exact = torch.distributions.MultivariateNormal(torch.zeros(30).double(), total).log_prob(z[:, j])
        assert_close(log_p[j], exact, rtol=1e-6, atol=1e-6)
        assert_close(torch.from_numpy(Q.toarray()), total.inverse(), rtol=1e-5, atol=1e-6)
        smooth = z[:, j] - (1 - a[j]) * torch.from_numpy(Q @ z[:, j].numpy())
        assert_close(smooth, K @ torch.linalg.solve(total, z[:, j]), rtol=1e-5, atol=1e-5)


def test_with_few_predecessors_it_is_close_and_every_cell_has_variance_one():
    place = places(120)
    prior = with_values(Matern32, (0.8, 0.8), (1.0, 1.0))
    cells = Cells(torch.ones(120, 1), places=place, before=before(place.numpy(), 20, np.zeros(120, dtype=int)))
    covariance = np.linalg.inv(precisions(prior, replace(cells, graph=cells.before))[0].toarray())
    exact = dense(place, Matern32, 0.8, 1.0)[1].numpy()
    np.testing.assert_allclose(covariance.diagonal(), 1, atol=0.02)
    np.testing.assert_allclose(covariance, exact, atol=0.08)


def test_predecessors_are_the_nearest_cells_before_and_sections_are_never_joined():
    place, section = places(200).numpy(), np.arange(200) % 2
    predecessors = before(place, 5, section)
    rng, number = np.random.default_rng(0), np.zeros(200)
    for level in (0, 1):
        order = rng.permutation(np.flatnonzero(section == level))
        number[order] = np.arange(100)
    for n in range(200):
        earlier = np.flatnonzero((section == section[n]) & (number < number[n]))
        distance = np.linalg.norm(place[earlier] - place[n], axis=1)
        assert set(predecessors[n].indices) == set(earlier[distance.argsort()[:5]])
    assert len(np.unique(np.column_stack([sections(predecessors), section]), axis=0)) == 2


def test_patches_are_every_cell_once_and_near_each_other():
    place = places(400).numpy() * 8
    place[7] = np.nan
    order = patches(place, np.arange(400) % 2, np.random.default_rng(0))
    assert sorted(order) == list(range(400))
    steps = np.linalg.norm(np.diff(place[order], axis=0), axis=1)
    assert np.nanmedian(steps) < 0.4 * np.nanmedian(np.linalg.norm(np.diff(place, axis=0), axis=1))


def test_with_strength_zero_it_is_the_standard_normal():
    cells = tissue()
    losses = []
    for prior in (Field(strength=0), StandardNormal()):
        fitted = ps.fit(SCVI(latent=2, prior=prior), MeanField(), cells, epochs=2, progress=False)
        losses.append(fitted.history["loss"].tolist())
    assert losses[0] == losses[1]
    model, guide = sized(cells)
    with torch.no_grad():
        model.prior.raw_strengths.fill_(-torch.inf)
        free = SCVI(latent=2, prior=StandardNormal(), likelihood=NB()).sized(cells.dims).double().eval()
        free.load_state_dict(model.state_dict(), strict=False)
        values = []
        for one in (model, free):
            torch.manual_seed(1)
            values.append(bound(one, guide, cells.take([0, 7, 9])).cells)
    model.prior.conditional(cells)[0].sum().backward()  # and no gradient is NaN
    assert model.prior.log_lengthscales.grad.isfinite().all()
    assert_close(values[0], values[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("guide", [MeanField(), SpatialGNN()])
def test_a_minibatch_has_the_prior_that_its_cells_have_in_the_whole_tissue(guide):
    cells = tissue()
    model, guide = sized(cells, guide)
    u = torch.zeros(1, len(cells), 2).double()
    whole = Joint(model, guide.sites, cells).log_prior(u)[0]
    assert whole.std() > 0.01
    for m in cells.minibatches(7, torch.Generator().manual_seed(0), guide.encoder.hops):
        part = Joint(model, guide.sites, m)
        assert_close(part.log_prior(u[:, : len(m)])[0], whole[m.index], rtol=1e-9, atol=1e-9)
        few = part.take(torch.arange(2))
        assert_close(few.log_prior(u[:, :2])[0], whole[m.index[:2]], rtol=1e-9, atol=1e-9)


def test_the_losses_of_minibatches_add_up_to_the_loss_of_the_whole():
    cells = tissue()
    model, guide = sized(cells)
    with torch.no_grad():
        head = guide.heads["z"]  # a posterior that is almost a point, so that two draws give the same loss
        head.weight[2:], head.bias[2:] = 0.0, -50.0
        whole = bound(model, guide, cells).cells
        added = torch.zeros(len(cells)).double()
        for m in cells.minibatches(16, torch.Generator().manual_seed(0), hops=0):
            added[m.index] = bound(model, guide, m).cells * len(m) / len(cells)  # it was scaled to the whole
    assert_close(added, whole, rtol=1e-4, atol=1e-2)
    alone = SCVI(latent=2, likelihood=NB()).sized(cells.dims).double().eval()
    alone.load_state_dict(model.state_dict(), strict=False)
    assert (bound(alone, guide, cells).cells - whole).abs().max() > 0.1


@pytest.mark.parametrize("guide", [MeanField(), SpatialGNN()])
def test_held_out_cells_are_given_the_others_which_do_not_read_them(guide):
    cells = tissue()
    train, held = cells.split(0.2, seed=1)
    n = len(held)
    assert (held.before[:n].sum(1) == 6).all()
    assert held.before[:n].indices.min() >= n  # all of them in the halo, which are cells to fit to
    assert set(held.with_halo.names[n:]) <= set(train.names)
    model, guide = sized(train, guide)
    u = torch.zeros(1, n, 2).double()
    usual = Joint(model, guide.sites, held).log_prior(u)
    other = replace(held, counts=torch.from_numpy(held.counts.toarray() + 5.0))
    assert_close(Joint(model, guide.sites, other).log_prior(u), usual, rtol=0, atol=0)


@torch.no_grad()
def test_a_whole_section_is_scored_without_a_guide_that_reads_what_is_predicted():
    """The counts of a cell must not change what is expected of it."""
    cells = tissue()
    model, guide = sized(cells, SpatialGNN())
    with pytest.raises(ValueError, match=r"SpatialGNN\(\) reads neighbours.*cells\.in_order\(\)"):
        ps.log_evidence((model, guide), cells, particles=2)
    u = torch.zeros(1, len(cells), 2).double()
    rows = np.flatnonzero(np.diff(cells.before.indptr) == 6)[:6]
    for given, same in ((cells, False), (cells.in_order(), True)):
        usual = Joint(model, guide.sites, given).log_prior(u)[0]
        changed = []
        for n in rows:
            counts = given.counts.toarray()
            counts[n] += 5
            other = replace(given, counts=torch.from_numpy(counts))
            changed.append(bool(Joint(model, guide.sites, other).log_prior(u)[0, n] != usual[n]))
        assert any(changed) != same
    assert np.isfinite(ps.log_evidence((model, guide), cells.in_order(), particles=2)).all()


def test_cells_without_coordinates_are_independent_and_gradients_are_finite():
    data = simulated(cells=40, genes=8, sections=1)
    data.obsm["spatial"][3:6] = np.nan
    with pytest.warns(UserWarning, match="3 of 40 cells have no coordinates"):
        cells = Fields(spatial="spatial", predecessors=4).read(data)
    model = sized(cells.to(dtype=torch.float64))[0]
    weights, variance = model.prior.conditional(cells.to(dtype=torch.float64))
    assert (weights[:, 3:6] == 0).all()
    assert (variance[:, 3:6] == 1).all()
    (weights.sum() + variance.sum()).backward()
    assert model.prior.log_lengthscales.grad.isfinite().all()
    ps.fit(SCVI(latent=2, prior=Field()), MeanField(), cells, epochs=1, progress=False)


def test_the_unit_of_coordinates_is_that_of_training():
    data = simulated(cells=60, genes=8, sections=1)
    cells = Fields(spatial="spatial", predecessors=4).read(data)
    query = simulated(cells=60, genes=8, sections=1)
    query.obsm["spatial"] *= 3
    again = cells.fields.read(query)
    assert_close(again.places, 3 * cells.places)
    distance = np.linalg.norm(data.obsm["spatial"][:, None] - data.obsm["spatial"], axis=-1) + 9 * np.eye(60)
    assert cells.fields.unit == pytest.approx(np.median(distance.min(1)))


def test_evidence_says_that_others_are_given_and_is_not_compared_with_that_of_single_cells():
    train, held = tissue().split(0.2, seed=1)
    fits = {
        name: ps.fit(SCVI(latent=2, prior=prior), MeanField(), train, epochs=1, progress=False)
        for name, prior in {"field": Field(), "no field": Field(strength=0), "cells": StandardNormal()}.items()
    }
    assert fits["field"].model.estimand == "p(x | l, others)"
    with pytest.raises(ValueError, match=r"p\(x \| l, others\) and .* gives p\(x \| l\).*Field\(strength=0\)"):
        ps.compare({"field": fits["field"], "cells": fits["cells"]}, held, progress=False)
    assert fits["no field"].model.estimand == "p(x | l, others)"


def test_a_field_needs_cells_with_predecessors_and_predecessors_need_coordinates():
    data = simulated(cells=30, genes=8, sections=1)
    with pytest.raises(ValueError, match=r"Field\(\) needs cells that know their predecessors.*predecessors=20"):
        ps.fit(SCVI(prior=Field()), MeanField(), Fields(spatial="spatial").read(data), progress=False)
    with pytest.raises(ValueError, match=r"predecessors are found by coordinates: .*Fields\(spatial=\.\.\.\)"):
        Fields(predecessors=20).read(data)


def test_a_fit_with_a_field_is_saved_and_loaded(tmp_path):
    cells = tissue()
    fitted = ps.fit(SCVI(latent=2, prior=Field(lengthscale=2.0)), MeanField(), cells, epochs=1, progress=False)
    fitted.save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit")
    np.testing.assert_allclose(again.smooth_field(cells), fitted.smooth_field(cells))
    assert free_sites(again.model, cells)["z"].size == 2


def test_strength_and_lengthscale_are_recovered_from_states_and_shuffled_places_have_none():
    place, a, r = torch.rand(500, 2, generator=torch.Generator().manual_seed(3)).double() * 20, 0.8, 3.0
    covariance = dense(place, Matern32, a, r)[1]
    noise = torch.randn(500, 1, generator=torch.Generator().manual_seed(4)).double()
    z = torch.linalg.cholesky(covariance) @ noise
    earlier = before(place.numpy(), 12, np.zeros(500, dtype=int))
    cells = Cells(torch.ones(500, 1), places=place, before=earlier)
    shuffled = z[torch.randperm(500, generator=torch.Generator().manual_seed(5))]
    maxima = [maximum(Field().sized(latent=1).double(), cells, states) for states in (z, shuffled)]
    assert abs(maxima[0].strengths.item() - a) < 0.1
    assert abs(maxima[0].log_lengthscales.exp().item() - r) < 1.0
    assert maxima[1].strengths.item() < 0.1


def maximum(prior, cells, z):
    """The prior at the strengths and lengthscales under which states z of all cells are most probable."""

    def log_p():
        weights, variance = prior.conditional(cells)
        loc = torch.einsum("jnm,nmj->nj", weights, z[cells.predecessors])
        return torch.distributions.Normal(loc, variance.sqrt().T).log_prob(z).mean()

    return maximum_of(prior, log_p)


def maximum_of(prior, log_p):
    """The prior at the parameters under which log_p() is largest."""
    optimiser = torch.optim.LBFGS(prior.parameters(), max_iter=20, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = -log_p()
        value.backward()
        return value

    optimiser.step(loss)
    return prior


def test_the_command_line_fits_a_field_over_a_graph_of_its_choice(tmp_path):
    simulated(cells=40, genes=8, sections=2).write_h5ad(tmp_path / "tissue.h5ad")
    place = ["--spatial", "spatial", "--section", "section", "--graph", "radius:0.9", "--predecessors", 4]
    slots = ["--prior", "field:lengthscale=2", "--latent", 2, "--epochs", 1]
    run("fit", tmp_path / "tissue.h5ad", *place, *slots, "--out", tmp_path / "run")
    fitted = ps.load(tmp_path / "run")
    assert repr(fitted.model.prior) == "Field(lengthscale=2.0)"
    assert fitted.fields.graph == Radius(0.9)
    assert fitted.fields.predecessors == 4
    assert fitted.fields.unit > 0


@pytest.mark.filterwarnings("ignore:genes. 1 of 8:UserWarning")
@pytest.mark.parametrize("prior", [Field(), CAR()])
def test_a_tissue_with_missing_genes_can_be_denoised(prior):
    data = simulated(cells=40, genes=8, sections=1)
    cells = Fields(spatial="spatial", graph=Delaunay(), predecessors=4).read(data)
    fitted = ps.fit(SCVI(latent=2, prior=prior), MeanField(), cells, epochs=1, progress=False)
    query = fitted.fields.read(data[:, data.var_names[1:]], missing="marginalise")
    assert np.isfinite(fitted.denoise(query)).all()
    assert fitted.denoise(query).shape == (40, 8)
