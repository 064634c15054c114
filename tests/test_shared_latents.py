"""Evidence of a whole data set whose cells share latents, on data sets whose evidence is known."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from reference.shared import SHARED, Loading, SharedMean, SharedTheta, generated, read

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.data_evidence import Search, data_evidence
from pyroscvi.evidence.peaks import divided
from pyroscvi.evidence.shared_latents import Noise, Shared
from pyroscvi.evidence.streams import Streams
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import LDVAE, SCVI
from pyroscvi.parts import (
    NB,
    GammaDispersion,
    LaplaceLoadings,
    Linear,
    NormalLoadings,
    PerGene,
    RandomDispersion,
    ReadCell,
)
from pyroscvi.program import Model


@pytest.mark.parametrize("name", ["shared-mean", "factors", "gamma-poisson", "nb", "nb-gamma", "nb-cells", "loadings"])
def test_the_evidence_of_a_data_set_agrees_with_the_exact_one(name):
    problem = SHARED[name](1)
    result = data_evidence(problem.pair, problem.cells, seed=1)
    assert abs(result.log_evidence - problem.exact) < 0.05
    assert result.monte_carlo_se < 0.02
    assert result.k_hat < 0.7
    assert result.method.startswith("nested") == (name in ("factors", "nb-cells", "loadings"))


def test_components_are_summed_out_and_rotations_of_factors_are_covered():
    for name, tolerance in (("nb-mixture", 0.05), ("turned-loadings", 0.1)):
        problem = SHARED[name](1)
        result = data_evidence(problem.pair, problem.cells, 1000, seed=1, inner=16)
        assert abs(result.log_evidence - problem.exact) < tolerance
        assert result.k_hat < 0.7


def test_quadrature_has_converged():
    page, cells = generated(Loading(genes=2), 12, 3)
    assert float(page._one(cells, points=401)) == pytest.approx(float(page._one(cells, points=121)), abs=1e-6)
    page, cells = generated(Loading(genes=2, latent=2), 12, 3)
    assert float(page._two(cells)) == pytest.approx(float(page._two(cells, points=61)), abs=1e-3)


def test_two_standard_errors_cover():
    """Forty data sets of a model with a shared mean; two standard errors should cover the truth of 38."""
    within = 0
    for seed in range(40):
        problem = SHARED["shared-mean"](seed)
        result = data_evidence(problem.pair, problem.cells, 1000, seed=seed)
        within += abs(result.log_evidence - problem.exact) < 2 * result.monte_carlo_se
    assert within >= 34


def test_the_estimate_given_shared_latents_is_unbiased():
    """A Gaussian factor model given its mean, with four draws a cell, 600 times."""
    page, cells = generated(SharedMean(genes=3, latent=1), 5, 0)
    m = torch.full((600, 3), 0.4, dtype=torch.float64)
    model, guide = read(page, cells)
    density = Shared(model, guide, cells, draws=4)
    exact = dist.MultivariateNormal(m[0], page.W @ page.W.T + page.sigma**2 * torch.eye(3)).log_prob(cells.x.log1p())
    with torch.no_grad():
        weight = (density.of_cells(m) - exact).exp()
    error = weight.std(0) / len(weight) ** 0.5
    assert ((weight.mean(0) - 1).abs() < 4 * error).all()
    assert (error < 0.05).all()
    assert density.log_prior(m)[0].item() == pytest.approx(3 * dist.Normal(0.0, 1.5).log_prob(torch.tensor(0.4)).item())


def test_random_numbers_do_not_depend_on_how_many_are_drawn_at_once():
    whole_lot = Noise(Streams(0, torch.arange(3)), 4, common=False).normal(5, 2)
    streams = Streams(0, torch.arange(3))
    pieces = [Noise(streams, t, common=False).normal(5, 2) for t in (1, 3)]
    assert torch.equal(whole_lot, torch.cat(pieces, 1))
    same = Noise(Streams(0, torch.arange(3)), 4, common=True).chi2(5.0, 6).unflatten(1, (4, 3))
    assert (same == same[:, :1]).all()


def test_pieces_do_not_change_the_result():
    problem = SHARED["nb-mixture"](2)
    cells = problem.cells.subset(torch.arange(4))
    model, guide = read(problem.model, cells)
    u = 0.5 + 0.1 * torch.arange(7.0).double()[:, None]
    one, two = (Shared(model, guide, cells, draws=8, rows=rows) for rows in (8, 24))
    assert (one.chunk, two.chunk) == (1, 3)
    with torch.no_grad():
        first = one(u)
        torch.testing.assert_close(first, two(u))
        assert not torch.allclose(first, one(u))  # new random numbers at every call
        torch.testing.assert_close(one.fixed(8)(u), one.fixed(8)(u))


# Peaks


def test_a_density_is_divided_between_its_peaks():
    peaks = torch.tensor([[-2.0, 0.0], [2.0, 1.0]]).double()

    def log_joint(u):
        return dist.Normal(peaks, 0.3).to_event(1).log_prob(u.unsqueeze(-2)).logsumexp(-1)

    starts = 3 * torch.randn(12, 2).double()
    result = divided(log_joint, starts, torch.ones(2).double())
    assert sorted(result.peaks[:, 0].tolist()) == pytest.approx([-2.0, 2.0], abs=1e-3)
    torch.testing.assert_close(result.scale, 0.09 * torch.eye(2).double().expand(2, 2, 2), rtol=0.05, atol=1e-3)
    u = 2 * torch.randn(100, 1, 2).double()
    parts = result.by_component(u)
    torch.testing.assert_close(parts.logsumexp(0), log_joint(u))
    assert (parts.isinf().sum(0) == 1).all()


# The certificate


def test_simulated_data_sets_certify():
    problem = SHARED["shared-mean"](0)
    result = data_evidence(problem.pair, problem.cells, 300, certify=True, simulated=4)
    assert result.certificate.words.startswith("certified")
    assert result.certificate.gap > 0  # it would be smaller if the inserted draw were not from the posterior
    assert "certified" in str(result)
    assert "4 simulated from the priors" in str(result.certificate)
    problem = SHARED["loadings"](0)
    few = problem.cells.subset(torch.arange(6))
    nested = data_evidence(problem.pair, few, 200, inner=8, certify=True, simulated=3)
    assert abs(nested.certificate.gap) < 0.1


def test_the_certificate_shows_a_missed_sign(monkeypatch):
    problem = SHARED["loadings"](0)
    few = problem.cells.subset(torch.arange(8))
    model, guide = problem.pair
    with torch.no_grad():
        guide.heads["W"].bias[3:] = -6.0  # a guide that is too narrow
    monkeypatch.setattr(Search, "starts", lambda self: self.q.loc)
    missed = data_evidence((model, guide), few, 100, inner=8, certify=True, simulated=4)
    assert not missed.certificate.holds
    assert missed.certificate.gap > 0.3


# Comparisons


def differences(one, other, n, sets):
    """Evidence of data sets that the first page simulates: the first page's minus the other's, in nats."""
    result = []
    for seed in range(sets):
        page, cells = generated(one, n, seed)
        rival = other.sized(cells.dims).double()
        result.append([data_evidence(read(each, cells), cells, 300, seed, inner=8) for each in (page, rival)])
    return np.array([float(a) - float(b) for a, b in result])


def test_the_prior_that_dispersions_came_from_is_ranked_first():
    narrow, wide = (SharedTheta(dispersion=RandomDispersion(m=0.5, s=s)) for s in (0.2, 2.0))
    for generator, rival in ((narrow, wide), (wide, narrow)):
        ahead = differences(generator, rival, 40, 4)
        assert (ahead > 0).sum() >= 3
        assert ahead.sum() > 4


def test_the_prior_that_loadings_came_from_is_ranked_first():
    small, large = (Loading(decoder=Linear(bias=False, loadings=NormalLoadings(s=s))) for s in (0.3, 3.0))
    for generator, rival in ((small, large), (large, small)):
        assert differences(generator, rival, 8, 2).sum() > 2


# Fits


def test_a_fit_whose_cells_share_dispersions_and_loadings(cells):
    few = Cells(cells.counts[:6, :3])
    model = LDVAE(
        latent=1, decoder=Linear(loadings=NormalLoadings(s=0.5)), likelihood=NB(dispersion=GammaDispersion(b=2.0))
    )
    f = ps.fit(model, FullCovariance(), few, epochs=3, batch_size=3, progress=False)
    result = f.data_evidence(few, particles=50, inner=4)
    assert np.isfinite(float(result))
    assert result.cells == 6
    assert result.estimand == "p(x)"
    assert f"{result.log_evidence:.2f}" in str(result)
    assert "uncertified" in str(result)
    assert ps.data_evidence is data_evidence
    assert f.loadings().shape == (3, 1)
    np.testing.assert_allclose(f.loadings().to_numpy().ravel(), f.latent(few, site="W"), rtol=1e-6)
    assert f.generate(n=7).shape == (7, 3)


def test_where_nothing_is_shared_it_is_the_sum_over_cells(cells):
    model = SCVI(latent=1, likelihood=NB(dispersion=PerGene())).sized(cells.dims).eval()
    pair = model, MeanField(encoder=ReadCell(widths=8)).sized(model, cells).eval()
    few = cells.subset(torch.arange(6))
    result = data_evidence(pair, few, 200)
    table = ps.evidence.evidences(ps.evidence.Reader(pair, few), 200).table
    assert float(result) == pytest.approx(table["log_evidence"].sum())
    assert result.monte_carlo_se == pytest.approx((table["monte_carlo_se"] ** 2).sum() ** 0.5)
    assert (result.method, result.estimand) == ("cell by cell", "p(x | l)")


# Loadings


def test_loadings_that_are_held_are_weights(cells):
    """LDVAE with random loadings, given W, is LDVAE with W for a parameter."""
    one = LDVAE(latent=3, decoder=Linear(loadings=LaplaceLoadings())).sized(cells.dims).eval()
    two = LDVAE(latent=3).sized(cells.dims).eval()
    W = torch.randn(12, 3)
    with torch.no_grad():
        mine, theirs = one.decoder.heads["rho"], two.decoder.heads["rho"]
        theirs.weight.copy_(torch.cat([W, mine.weight], 1))
        theirs.bias.copy_(mine.bias)
    given = {"z": torch.randn(60, 3), "l": 1 + torch.rand(60, 1)}
    p, q = (
        poutine.trace(poutine.condition(page, data=values)).get_trace(cells).nodes["x"]["fn"]
        for page, values in ((one, {**given, "W": W.flatten()}), (two, given))
    )
    torch.testing.assert_close(p.log_prob(cells.x), q.log_prob(cells.x))


def test_loadings_are_drawn_once_a_run_outside_the_plate_and_forgotten(cells):
    page = LDVAE(latent=3, decoder=Linear(loadings=NormalLoadings(s=0.1))).sized(cells.dims)
    site = poutine.trace(page).get_trace(cells).nodes["W"]
    assert site["cond_indep_stack"] == ()
    assert site["fn"].base_dist.scale.unique().item() == pytest.approx(0.1)
    with pytest.raises(RuntimeError, match=r"NormalLoadings\(s=0.1\) has a value only while its model runs"):
        page.decoder(torch.zeros(2, 3), torch.zeros(2, 2))


# Bad input


def test_models_that_cannot_be_integrated_are_refused(cells):
    def pair(model):
        sized = model.sized(cells.dims).eval()
        return sized, MeanField(encoder=ReadCell(widths=8)).sized(sized, cells).eval()

    many = pair(LDVAE(latent=6, decoder=Linear(loadings=NormalLoadings())))
    with pytest.raises(ValueError, match=r"cells share 72 numbers \('W' 72\).*64 at most.*Learned\(\)"):
        data_evidence(many, cells)
    shared = pair(SCVI(latent=1, likelihood=NB(dispersion=RandomDispersion())))
    with pytest.raises(ValueError, match="no cells"):
        data_evidence(shared, cells.subset([]))
    with pytest.raises(ValueError, match="two simulated data sets"):
        data_evidence(shared, cells, certify=True, simulated=1)
    discrete, guide = pair(Kinds())
    with pytest.raises(ValueError, match=r"site 'k' is discrete and shared by all cells.*into the plate over cells"):
        data_evidence((discrete, guide), cells)
    with pytest.raises(ValueError, match=r"does not take several draws of 'alpha', 'beta' at once.*unflatten"):
        data_evidence(pair(Narrow()), cells)


class Kinds(Model):
    """A kind and a mean, both shared by the whole data set."""

    def model(self, cells):
        m = pyro.sample("m", dist.Normal(torch.zeros(12, dtype=cells.dtype), 1.0).to_event(1))
        k = pyro.sample("k", dist.Categorical(torch.ones(2, dtype=cells.dtype)), infer={"enumerate": "parallel"})
        with cells.plate():
            pyro.sample("x", dist.Poisson((m + k.unsqueeze(-1)).exp()).to_event(1), obs=cells.x)


class Narrow(Model):
    """Its second shared latent wrongly sums over several draws of the first."""

    def model(self, cells):
        alpha = pyro.sample("alpha", dist.Normal(torch.zeros(2, dtype=cells.dtype), 1.0).to_event(1))
        beta = pyro.sample("beta", dist.Normal(alpha.sum() * torch.ones(2, dtype=cells.dtype), 1.0).to_event(1))
        with cells.plate():
            pyro.sample(
                "x", dist.Poisson(beta.sum(-1, keepdim=True).exp() * cells.x.new_ones(12)).to_event(1), obs=cells.x
            )
