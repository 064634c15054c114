"""A fit as ArviZ knows one, in both of its generations; leave-one-out where it is one, held against the exact one."""

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fits import untrained
from torch import nn
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from pyroscvi.data.cells import Cells
from pyroscvi.distributions import NegativeBinomial
from pyroscvi.evidence.estimator import Importance
from pyroscvi.evidence.held import shared_draws
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import LDVAE, SCVI, Annotated
from pyroscvi.parts import NB, Linear, Log1pNormal, NormalLoadings, RandomDispersion
from pyroscvi.program import Model, free_sites
from pyroscvi.report import arviz_versions
from pyroscvi.report.inference_data import loo, to_arviz

az = arviz_versions.arviz()
FIRST = arviz_versions.first_generation()


def groups(data):
    return set(data.groups()) if FIRST else set(data.children)


def test_groups_have_names_for_cells_genes_and_draws(named):
    data = to_arviz(untrained(LDVAE(latent=3), FullCovariance(), named), named, samples=8)
    assert groups(data) == {"posterior", "posterior_predictive", "sample_stats", "observed_data"}
    assert dict(data["posterior"]["z"].sizes) == {"chain": 4, "draw": 2, "cell": 60, "z_dim": 3}
    assert dict(data["posterior"]["l"].sizes) == {"chain": 4, "draw": 2, "cell": 60, "l_dim": 1}
    assert (data["posterior"]["l"] > 0).all()
    assert dict(data["posterior_predictive"]["x"].sizes) == {"chain": 4, "draw": 2, "cell": 60, "gene": 12}
    assert dict(data["sample_stats"]["log_p_x_given_latents"].sizes) == {"chain": 4, "draw": 2, "cell": 60}
    assert (data["observed_data"]["x"].sel(cell="cell3", gene="gene4") == named.x[3, 4].item()).all()


def test_chains_are_dealt_the_draws_in_order(named):
    pair = untrained(SCVI(latent=2), MeanField(), named)
    one, four = (to_arviz(pair, named, 12, chains=chains) for chains in (1, 4))
    np.testing.assert_array_equal(one["posterior"]["z"].values.reshape(4, 3, 60, 2), four["posterior"]["z"].values)
    with pytest.raises(ValueError, match=r"samples=10 cannot be divided into chains=4.*chains=1"):
        to_arviz(pair, named, 10)


def test_counts_are_stored_as_integers_and_other_observations_as_floats(named):
    for likelihood, kind in ((NB(), "i"), (Log1pNormal(), "f")):
        data = to_arviz(untrained(SCVI(latent=2, likelihood=likelihood), MeanField(), named), named, 4)
        assert data["posterior_predictive"]["x"].dtype.kind == data["observed_data"]["x"].dtype.kind == kind


def test_samples_come_from_the_guide_and_likelihoods_are_those_of_the_samples(named):
    model, guide = untrained(SCVI(latent=2, likelihood=NB()), FullCovariance(), named)
    data = to_arviz((model, guide), named, samples=4000, chains=1)
    q = guide.posteriors(named)["z"]
    z = torch.tensor(data["posterior"]["z"].values[0])
    assert_close(z.mean(0).float(), q.mean, atol=0.1, rtol=0)
    first = z[:5].float()
    log_mu = named.library.log() + model.decoder(first, model.condition(named))["rho"].log_softmax(-1)
    fn = NegativeBinomial(log_mu, model.likelihood.dispersion.log_theta)
    log_p = torch.tensor(data["sample_stats"]["log_p_x_given_latents"].values[0, :5]).float()
    assert_close(log_p, fn.log_prob(named.x), rtol=1e-4, atol=1e-3)
    predicted = torch.tensor(data["posterior_predictive"]["x"].values[0]).float()
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
    data = to_arviz(untrained(TwoLevels(latent=2), MeanField(), cells), cells, samples=48)
    totals = data["posterior_predictive"]["x"].sum("gene").mean(("chain", "draw")).values
    assert (totals[::2] < 20).all()
    assert (totals[1::2] > 1000).all()


def test_labels_are_no_part_of_the_likelihood_of_counts(named):
    model, guide = untrained(Annotated(latent=2), MeanField(), named)
    unlabelled = replace(named, categories={**named.categories, "label": torch.full((60,), -1)})
    with_labels, without = (to_arviz((model, guide), some, 4)["sample_stats"] for some in (named, unlabelled))
    np.testing.assert_allclose(with_labels["log_p_x_given_latents"], without["log_p_x_given_latents"])


def test_attributes_describe_draws_and_log_probabilities(named):
    data = to_arviz(untrained(SCVI(latent=2), MeanField(), named), named, 4)
    assert "loo and waic of these numbers mean nothing" in data["sample_stats"].attrs["note"]
    assert data["sample_stats"].attrs["estimand"] == "p(x | l)"
    assert "q(z | x)" in data["posterior"].attrs["draws"]


def test_the_same_seed_gives_the_same_data_and_touches_nothing(named):
    pair = untrained(SCVI(latent=2), MeanField(), named)
    state = torch.get_rng_state()
    first = to_arviz(pair, named, 4, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    second = to_arviz(pair, named, 4, seed=1)
    assert (first["posterior_predictive"]["x"] == second["posterior_predictive"]["x"]).all()
    assert (first["posterior"]["z"] == second["posterior"]["z"]).all()


# Leave-one-out, for models with shared latents


class Location(Model):
    """x_n ~ Normal(m + w z_n, 1) with m ~ Normal(0, 2) shared and z_n ~ Normal(0, 1): all of it in closed form."""

    def build(self, dims):
        super().build(dims)
        self.register_buffer("w", torch.linspace(-3.0, 4.0, dims.genes))

    def model(self, cells):
        m = pyro.sample("m", dist.Normal(torch.zeros_like(self.w), 2.0).to_event(1))
        with cells.plate():
            z = pyro.sample("z", dist.Normal(torch.zeros_like(self.w[:1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(m + z * self.w, 1.0).to_event(1), obs=cells.x)

    @property
    def covariance(self):
        """Of x_n given m."""
        return torch.outer(self.w, self.w) + torch.eye(len(self.w))

    def of_m(self, x):
        """p(m | x)."""
        precision = torch.eye(len(self.w)) / 4 + len(x) * self.covariance.inverse()
        mean = torch.linalg.solve(precision, torch.linalg.solve(self.covariance, x.sum(0)))
        return MultivariateNormal(mean, precision_matrix=precision)


class Exact(nn.Module):
    """Its guide: p(m | x), and p(z_n | x_n, m) with the mean of m, as wide as it is over all of m."""

    def __init__(self, model, cells):
        super().__init__()
        self.model, self.seen, self.sites = model, cells.x, free_sites(model, cells)

    def posteriors(self, cells):
        m, w = self.model.of_m(self.seen.to(self.model.w)), self.model.w
        v = 1 / (1 + w @ w)
        wide = (v + v * v * w @ m.covariance_matrix.to(w) @ w).sqrt()
        z = dist.Normal(v * (cells.x - m.mean) @ w.unsqueeze(-1), wide).to_event(1)
        return {"m": dist.MultivariateNormal(m.mean, scale_tril=m.scale_tril), "z": z}


@pytest.fixture(scope="module")
def located():
    generator = torch.Generator().manual_seed(3)
    w = torch.linspace(-3.0, 4.0, 3)
    x = 1.0 + torch.randn(30, 1, generator=generator) * w + torch.randn(30, 3, generator=generator)
    cells = Cells(x)
    model = Location().sized(cells.dims)
    return model, Exact(model, cells), cells


@pytest.fixture(scope="module")
def left_out(located):
    model, guide, cells = located
    with pyro.validation_enabled(False):
        return to_arviz((model, guide), cells, 400, log_likelihood="marginal", estimator=Importance())


def test_marginal_likelihoods_at_draws_of_shared_latents(located, left_out):
    model, _, cells = located
    m = torch.tensor(left_out["posterior"]["m"].values)
    assert m.shape == (4, 100, 3)
    exact = model.of_m(cells.x)
    assert_close(m.flatten(0, 1).mean(0).float(), exact.mean, atol=4 * exact.stddev.max().item() / 20, rtol=0)
    expected = MultivariateNormal(m.float().unsqueeze(2), model.covariance).log_prob(cells.x)
    error = torch.tensor(left_out["log_likelihood"]["x"].values) - expected
    assert error.abs().mean() < 0.05  # with 100 particles
    assert error.mean().abs() < 0.01
    assert "m, with the latents of the cell integrated out" in left_out["log_likelihood"].attrs["note"]


def test_counts_are_predicted_from_their_own_sample_of_the_latents(located, left_out):
    """x - m - w z is the noise only if m and z are from the same sample as x."""
    model, _, cells = located
    m, z, x = (torch.tensor(left_out[group][name].values).float() for group, name in NAMES)
    rest = x - m.unsqueeze(2) - z * model.w
    assert rest.std() == pytest.approx(1.0, abs=0.02)
    log_p = torch.tensor(left_out["sample_stats"]["log_p_x_given_latents"].values).float()
    by_hand = dist.Normal(m.unsqueeze(2) + z * model.w, 1.0).log_prob(cells.x).sum(-1)
    assert_close(log_p, by_hand, atol=1e-4, rtol=1e-4)


NAMES = ("posterior", "m"), ("posterior", "z"), ("posterior_predictive", "x")


@pytest.mark.filterwarnings("ignore")
def test_loo_equals_the_evidence_of_a_cell_given_the_others(located, left_out):
    model, _, cells = located
    exact = []
    for n in range(len(cells)):
        rest = model.of_m(torch.cat([cells.x[:n], cells.x[n + 1 :]]))
        exact.append(MultivariateNormal(rest.mean, model.covariance + rest.covariance_matrix).log_prob(cells.x[n]))
    exact = torch.stack(exact).numpy()
    result = loo(left_out, pointwise=True)
    each = result.loo_i if FIRST else result.elpd_i
    np.testing.assert_allclose(each, exact, atol=0.15)
    assert np.asarray(each).sum() == pytest.approx(exact.sum(), abs=0.5)
    if FIRST:
        assert az.waic(left_out).elpd_waic == pytest.approx(exact.sum(), abs=0.5)
    # loo of log p(x | latents of the cell) is far off, so these are not stored as a log_likelihood.
    groups = {"posterior": {"m": left_out["posterior"]["m"].values}}
    groups["log_likelihood"] = {"x": left_out["sample_stats"]["log_p_x_given_latents"].values}
    wrong = az.loo(arviz_versions.inference_data(groups, coords={}, dims={}, attrs={}))
    assert abs((wrong.elpd_loo if FIRST else wrong.elpd) - exact.sum()) > 50


def test_loo_without_shared_latents_is_refused_with_a_reason(named):
    pair = untrained(SCVI(latent=2), MeanField(), named)
    data = to_arviz(pair, named, 4)
    with pytest.raises(TypeError, match="log likelihood not found"):
        az.loo(data)
    for ask in (lambda: loo(data), lambda: to_arviz(pair, named, 4, log_likelihood="marginal")):
        with pytest.raises(ValueError, match=r"is left out with it.*pyroscvi\.compare"):
            ask()
    with pytest.raises(ValueError, match=r"not 'conditional'.*mean nothing"):
        to_arviz(pair, named, 4, log_likelihood="conditional")
    with pytest.raises(ValueError, match="was this made by to_arviz"):
        loo(arviz_versions.inference_data({"posterior": {"z": np.zeros((1, 4))}}, coords={}, dims={}, attrs={}))


SHARING = {
    "theta": (SCVI(latent=2, likelihood=NB(dispersion=RandomDispersion())), 12),
    "W": (LDVAE(latent=2, decoder=Linear(loadings=NormalLoadings())), 24),
}


@pytest.mark.parametrize("name", SHARING)
def test_the_refusal_of_loo_with_shared_latents_says_what_to_do(named, name):
    page, size = SHARING[name]
    pair = untrained(page, MeanField(), named)
    data = to_arviz(pair, named, 8)
    assert dict(data["posterior"][name].sizes) == {"chain": 4, "draw": 2, f"{name}_dim": size}
    np.testing.assert_allclose(data["posterior"][name].values.reshape(8, size), shared_draws(pair[1], named, 8)[name])
    with pytest.raises(ValueError, match=rf'cells share, {name}.*log_likelihood="marginal"'):
        loo(data)
    with pytest.raises(ValueError, match=f"{name} is shared by all cells"):
        to_arviz(pair, named, 8, corrected=True)
    few = named.subset(torch.arange(3))
    assert to_arviz(pair, few, 4, log_likelihood="marginal")["log_likelihood"]["x"].shape == (4, 1, 3)


@pytest.mark.filterwarnings("ignore")
def test_predictive_checks_and_ranks_are_drawn(named):
    import matplotlib.pyplot as plt

    data = to_arviz(untrained(SCVI(latent=2, likelihood=NB()), MeanField(), named), named, 40)
    first = {"var_names": ["z"], "coords": {"cell": ["cell0", "cell7"]}}
    if FIRST:
        assert len(az.plot_ppc(data).get_lines()) >= 40
        titles = [ax.get_title() for ax in np.ravel(az.plot_rank(data, **first))]
        assert titles == [f"z\n{cell}, {j}" for cell in ("cell0", "cell7") for j in (0, 1)]
    else:
        assert az.plot_ppc_dist(data) is not None
        assert az.plot_rank(data, **first) is not None
    plt.close("all")


# The later generation


class Node:
    def __init__(self, table):
        self.table, self.attrs = table, {}


class ArvizOne:
    """As much of ArviZ 1.x as a call of ``from_dict`` shows: one nested dictionary, everything else by keyword."""

    @staticmethod
    def from_dict(data, *, coords=None, dims=None, attrs=None):
        assert all(isinstance(table, dict) for table in data.values())
        return Tree({group: Node(table) for group, table in data.items()})


class Tree(dict):
    def __init__(self, nodes):
        super().__init__(nodes)
        self.attrs = {}


@pytest.mark.skipif(not FIRST, reason="the later generation is installed: all tests are of it")
def test_arviz_1_gets_one_dictionary(named, monkeypatch):
    pair = untrained(SCVI(latent=2), MeanField(), named)
    earlier = to_arviz(pair, named, 4)
    monkeypatch.setattr(arviz_versions, "version", lambda name: "1.2.0")
    monkeypatch.setattr(arviz_versions, "arviz", lambda: ArvizOne)
    later = to_arviz(pair, named, 4)
    assert list(later) == ["posterior", "posterior_predictive", "sample_stats", "observed_data"]
    np.testing.assert_array_equal(later["posterior"].table["z"], earlier["posterior"]["z"].values)
    assert "loo" in later["sample_stats"].attrs["note"]
    assert "pyroscvi.compare" in later.attrs["loo"]
