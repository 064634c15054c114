"""A fit as ArviZ knows one, in both of its generations."""

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.testing import assert_close

from pyroscvi.distributions import NegativeBinomial
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import LDVAE, SCVI, Annotated
from pyroscvi.parts import NB
from pyroscvi.report import generations
from pyroscvi.report.inference_data import to_arviz


@pytest.fixture
def named(cells):
    return replace(cells, names=np.array([f"cell{i}" for i in range(len(cells))]))


def untrained(model, guide, cells):
    model = model.sized(cells.dims)
    return model.eval(), guide.sized(model, cells).eval()


def test_groups_have_names_for_cells_genes_and_draws(named):
    data = to_arviz(untrained(LDVAE(latent=3), FullCovariance(), named), named, samples=7)
    assert set(data.groups()) == {"posterior", "posterior_predictive", "log_likelihood", "observed_data"}
    assert dict(data.posterior["z"].sizes) == {"chain": 1, "draw": 7, "cell": 60, "z_dim": 3}
    assert dict(data.posterior["l"].sizes) == {"chain": 1, "draw": 7, "cell": 60, "l_dim": 1}
    assert (data.posterior["l"] > 0).all()
    assert dict(data.posterior_predictive["x"].sizes) == {"chain": 1, "draw": 7, "cell": 60, "gene": 12}
    assert dict(data.log_likelihood["x"].sizes) == {"chain": 1, "draw": 7, "cell": 60}
    assert (data.observed_data["x"].sel(cell="cell3", gene="gene4") == named.x[3, 4].item()).all()


def test_draws_are_of_the_guide_and_likelihoods_of_the_draws(named):
    model, guide = untrained(SCVI(latent=2, likelihood=NB()), FullCovariance(), named)
    data = to_arviz((model, guide), named, samples=4000)
    q = guide.posteriors(named)["z"]
    z = torch.tensor(data.posterior["z"].values[0])
    assert_close(z.mean(0).float(), q.mean, atol=0.1, rtol=0)
    first = z[:5].float()
    log_mu = named.library.log() + model.decoder(first, model.condition(named))["rho"].log_softmax(-1)
    fn = NegativeBinomial(log_mu, model.likelihood.dispersion.log_theta)
    found = torch.tensor(data.log_likelihood["x"].values[0, :5]).float()
    assert_close(found, fn.log_prob(named.x), rtol=1e-4, atol=1e-3)
    predicted = torch.tensor(data.posterior_predictive["x"].values[0])
    assert_close(predicted.sum(-1).mean(0) / named.library.squeeze(-1), torch.ones(60), atol=0.05, rtol=0)


def test_what_is_enumerated_is_drawn_from_its_posterior(named):
    class TwoLevels(SCVI):
        """Every count is a hundred times as high in the second of two kinds, which half of the cells are of."""

        def model(self, cells):
            with cells.plate():
                z = self.prior()
                k = pyro.sample("k", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
                rate = (1 + 99 * k.unsqueeze(-1)) * self.decoder(z, self.condition(cells))["rho"].softmax(-1)
                pyro.sample("x", dist.Poisson(12 * rate).to_event(1), obs=cells.x)

    counts = torch.where(torch.arange(60)[:, None] % 2 == 0, 1.0, 100.0).expand(-1, 12).clone()
    cells = replace(named, counts=counts)
    data = to_arviz(untrained(TwoLevels(latent=2), MeanField(), cells), cells, samples=50)
    totals = data.posterior_predictive["x"].sum("gene").mean("draw").values[0]
    assert (totals[::2] < 20).all()
    assert (totals[1::2] > 1000).all()


def test_labels_are_no_part_of_the_likelihood_of_counts(named):
    model, guide = untrained(Annotated(latent=2), MeanField(), named)
    unlabelled = replace(named, categories={**named.categories, "label": torch.full((60,), -1)})
    with_labels, without = (to_arviz((model, guide), some, 5).log_likelihood["x"] for some in (named, unlabelled))
    np.testing.assert_allclose(with_labels, without)


def test_it_says_that_loo_means_nothing_here(named):
    data = to_arviz(untrained(SCVI(latent=2), MeanField(), named), named, 5)
    assert "loo and waic of these numbers mean nothing" in data.log_likelihood.attrs["note"]
    assert data.log_likelihood.attrs["estimand"] == "p(x | l)"
    assert "q(z | x)" in data.posterior.attrs["draws"]


def test_the_same_seed_gives_the_same_data_and_touches_nothing(named):
    pair = untrained(SCVI(latent=2), MeanField(), named)
    state = torch.get_rng_state()
    first = to_arviz(pair, named, 5, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    second = to_arviz(pair, named, 5, seed=1)
    assert (first.posterior_predictive["x"] == second.posterior_predictive["x"]).all()
    assert (first.posterior["z"] == second.posterior["z"]).all()


class Node:
    def __init__(self, table):
        self.table, self.attrs = table, {}


class ArvizOne:
    """As much of ArviZ 1.x as a call of ``from_dict`` shows: one nested dictionary, everything else by keyword."""

    @staticmethod
    def from_dict(data, *, coords=None, dims=None, attrs=None):
        assert all(isinstance(table, dict) for table in data.values())
        return {group: Node(table) for group, table in data.items()}


def test_the_later_generation_is_given_one_dictionary(named, monkeypatch):
    pair = untrained(SCVI(latent=2), MeanField(), named)
    earlier = to_arviz(pair, named, 5)
    monkeypatch.setattr(generations, "version", lambda name: "1.2.0")
    monkeypatch.setattr(generations, "arviz", lambda: ArvizOne)
    later = to_arviz(pair, named, 5)
    assert list(later) == ["posterior", "posterior_predictive", "log_likelihood", "observed_data"]
    np.testing.assert_array_equal(later["posterior"].table["z"], earlier.posterior["z"].values)
    assert "loo" in later["log_likelihood"].attrs["note"]
