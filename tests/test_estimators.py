"""Estimators of an evidence, on problems whose evidence is known; all of them: ``python benchmarks/evidence.py``."""

from math import log

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from reference.problems import PROBLEMS, amortised, on_a_grid
from torch import nn
from torch.nn.functional import softplus
from torch.testing import assert_close

from pyroscvi.evidence import Adaptive, Annealed, GuideDraws, Importance, Ladder, Refined, StudentT
from pyroscvi.evidence.annealed import Path
from pyroscvi.evidence.at_components import AtComponents
from pyroscvi.evidence.estimator import Target
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.matched import Matched
from pyroscvi.evidence.proposals import Elliptical, together
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.streams import Streams
from pyroscvi.evidence.table import evidences, log_evidence
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, Mixture, ReadCell
from pyroscvi.program import Guide

SHORT = Annealed(chains=4, temperatures=5, leapfrogs=2, pilots=2, start=StudentT())


def solved(name, cells=12, steps=60):
    """A model and a guide with little training, cells, and their exact evidence."""
    problem = PROBLEMS[name](160)
    pair, unseen = amortised(problem, steps=steps)
    return pair, unseen.subset(torch.arange(cells)), problem.exact[:cells].numpy()


@pytest.mark.parametrize("name", ["nb-normal-d2", "log1p-mixture-d10"])
def test_quadrature_has_converged(name):
    problem = PROBLEMS[name](6)
    finer = problem.model.log_evidence_by_quadrature(problem.cells, points=3001, reach=16.0)
    assert_close(finer, problem.exact, atol=1e-8, rtol=0)


def test_two_exact_evidences_agree():
    """The rotated model on a plain grid of its two latents, and the product of one-dimensional integrals."""
    for name in ("zip-mixture-d2", "nb-normal-d2"):
        problem = PROBLEMS[name](4)
        assert_close(on_a_grid(problem.model, problem.cells, points=401), problem.exact, atol=1e-4, rtol=0)


def test_there_are_enough_problems():
    assert len(PROBLEMS) >= 24


@pytest.mark.parametrize("name", ["zinb-normal-d10", "log1p-mixture-d10", "poisson-normal-d3-size", "nb-softmax-d2"])
def test_the_ladder_is_within_its_tolerance(name):
    pair, cells, exact = solved(name)
    table = evidences(Reader(pair, cells), estimator=Ladder(tolerance=0.01)).table
    error = table["log_evidence"] - exact
    assert abs(error.mean()) < 0.01
    assert error.abs().max() < 0.06
    assert (table["k_hat"] < 0.7).all()


@pytest.mark.parametrize(
    ("method", "estimator"),
    [("adaptive", Importance(Adaptive())), ("refined", Importance(Refined())), ("annealed", Annealed())],
)
def test_each_estimator_alone_is_within_its_error(method, estimator):
    pair, cells, exact = solved("log1p-mixture-d10", 8)
    table = evidences(Reader(pair, cells), 1000, estimator=estimator).table
    error = table["log_evidence"] - exact
    assert (error.abs() < 4 * table["monte_carlo_se"]).all()
    assert error.abs().mean() < 0.15
    assert set(table["method"]) == {method}


@pytest.mark.parametrize("estimator", [Importance(Adaptive(draws=64, rounds=2)), SHORT, Ladder(anneal=SHORT)])
def test_neither_minibatch_nor_chunk_nor_other_cells_change_the_evidence(cells, estimator):
    for model in (SCVI(latent=1, likelihood=NB()), SCVI(latent=1, prior=Mixture(2), likelihood=NB())):
        model = model.sized(cells.dims).eval()
        pair = model, MeanField(encoder=ReadCell(widths=8)).sized(model, cells).eval()
        few, double = cells.subset(torch.arange(9)), {"estimator": estimator, "dtype": torch.float64}
        whole = log_evidence(pair, few, 25, batch_size=9, chunk=25, **double)
        np.testing.assert_allclose(log_evidence(pair, few, 25, batch_size=5, chunk=10, **double), whole, atol=1e-9)
        some = torch.tensor([7, 3])
        np.testing.assert_allclose(log_evidence(pair, few.take(some), 25, **double), whole[some], atol=1e-9)


# Annealing between Gaussians


def gaussian(cells, loc=1.0, scale=0.6):
    """log p(x, u) = log 1/2 + log Normal(u; loc, scale), and a proposal that is at the origin and too wide."""
    q = Elliptical(torch.zeros(cells, 2).double(), torch.eye(2).double().expand(cells, 2, 2))
    return (lambda u: dist.Normal(loc, scale).log_prob(u).sum(-1) - log(2)), q


def test_weights_of_chains_are_unbiased_and_two_standard_errors_cover():
    n = 1500
    log_joint, q = gaussian(n)
    truth = 1.0 + 0.6 * torch.randn(n, 2, dtype=torch.float64)
    target = Target(log_joint, q, Streams(0, torch.arange(n)), truth=truth)
    result = Annealed(chains=64, temperatures=6, leapfrogs=3, start=GuideDraws())(target)
    value, error = result.estimate.log_evidence, result.estimate.monte_carlo_se
    assert value.exp().mean().item() == pytest.approx(0.5, rel=0.01)
    assert 0.93 < ((value - log(0.5)).abs() < 2 * error).double().mean() < 0.97
    assert value.mean() < log(0.5) < result.upper.mean()
    assert (result.upper - value).mean() < 0.05


def test_a_backward_chain_has_the_weight_of_a_posterior_draw():
    """E 1/w = 1/p(x) where w is that of a chain from the posterior to the proposal."""
    n = 4000
    log_joint, q = gaussian(n, 0.5, 1.2)  # a proposal with lighter tails, for 1/w to have a variance
    path = Path(log_joint, q, temperatures=6, leapfrogs=3, chunk=None)
    steps = path.pilot(4, Streams(0, torch.arange(n), 1))
    u = 0.5 + 1.2 * torch.randn(n, 2, dtype=torch.float64)
    log_w = path.backward(steps, Streams(0, torch.arange(n), 2), u)
    assert (-log_w).exp().mean().item() == pytest.approx(2.0, rel=0.02)


def test_the_kernel_leaves_the_density_invariant():
    n = 4000
    log_joint, q = gaussian(n)
    path = Path(log_joint, q, temperatures=4, leapfrogs=5, chunk=None)
    state = path.evaluate((1.0 + 0.6 * torch.randn(1, n, 2)).double())
    streams = Streams(0, torch.arange(n))
    for _ in range(3):
        state, accepted = path.kernel(state, 1.0, torch.full((n,), 0.4).double(), streams)
    assert accepted.mean() > 0.6
    assert_close(state.u.mean((0, 1)), torch.ones(2).double(), atol=0.04, rtol=0)
    assert_close(state.u.std((0, 1)), torch.full((2,), 0.6).double(), atol=0.03, rtol=0)


def test_a_proposal_adapts_to_a_distant_and_correlated_posterior():
    factor = torch.tensor([[1.0, 0.0], [0.95, 0.3]]).double()
    far = dist.MultivariateNormal(torch.tensor([8.0, -6.0]).double(), scale_tril=factor)
    q = Elliptical(torch.zeros(4, 2).double(), 0.5 * torch.eye(2).double().expand(4, 2, 2))
    result = Adaptive(draws=512)(q, far.log_prob).parts.part(0)
    assert_close(result.loc, far.mean.expand(4, 2), atol=0.15, rtol=0)
    covariance = result.scale_tril @ result.scale_tril.mT / 1.15**2
    assert_close(covariance, far.covariance_matrix.expand(4, 2, 2), atol=0.15, rtol=0.15)


# The ladder


class Counting:
    """The same density for every cell; ``draws`` counts how often it was computed."""

    def __init__(self, log_joint):
        self.log_joint, self.draws = log_joint, 0

    def __call__(self, u):
        self.draws += u[..., 0].numel()
        return self.log_joint(u)

    def take(self, index):
        return self


def test_draws_end_where_the_error_is_within_the_tolerance():
    """Also for cells whose guide is far off, and with no more draws than a proposal of that quality takes."""
    n, draws = 3, []
    loc, scale = torch.tensor([1.0, 1.0, -8.0]).double(), torch.tensor([0.6, 0.3, 0.1]).double()
    q = Elliptical(loc[:, None].expand(n, 2), scale[:, None, None] * torch.eye(2).double())
    for tolerance in (0.05, 0.01):
        density = Counting(gaussian(n)[0])
        result = Ladder(tolerance=tolerance)(Target(density, q, Streams(0, torch.arange(n))), 10_000)
        assert set(result.method) == {"adaptive"}
        assert (result.estimate.monte_carlo_se <= tolerance).all()
        assert ((result.estimate.log_evidence - log(0.5)).abs() < 4 * result.estimate.monte_carlo_se + 1e-3).all()
        draws.append(density.draws)
    assert draws[0] < 2500
    assert draws[1] > 1.5 * draws[0]


def test_no_more_draws_than_were_given():
    log_joint, q = gaussian(2)
    density = Counting(log_joint)
    start = AtComponents(centre=Matched(rounds=2))
    Importance(Adaptive(rounds=1, start=start))(Target(density, q, Streams(0, torch.arange(2))), 300)
    assert density.draws == 2 * (2 * 6 + 1 + 128 + 300)  # with scores; one tells how many components there are


def test_components_that_do_not_explain_a_cell_cost_nothing(cells, monkeypatch):
    """Every draw is decoded once for all components."""
    few, decoded, trace = cells.subset(torch.arange(6)), [], Joint.trace
    monkeypatch.setattr(Joint, "trace", lambda joint, u: (decoded.append(u[..., 0].numel()), trace(joint, u))[1])
    draws = []
    for components in (2, 12):
        torch.manual_seed(0)
        model = SCVI(latent=2, prior=Mixture(components), likelihood=NB()).sized(cells.dims).eval()
        with torch.no_grad():
            model.prior.m[2:] = 40.0
        decoded.clear()
        evidences(Reader((model, MeanField().sized(model, cells).eval()), few))
        draws.append(sum(decoded))
    assert draws[1] < 1.5 * draws[0]


def test_few_draws_come_from_the_guide(cells):
    """Too few for a k-hat."""
    few = cells.subset(torch.arange(4))
    model = SCVI(latent=2, prior=Mixture(2), likelihood=NB()).sized(cells.dims).eval()
    pair = model, MeanField().sized(model, cells).eval()
    assert set(evidences(Reader(pair, few), 20).table["method"]) == {"importance"}


# Guides that are not Gaussian


class Skewed(Guide):
    """Student-t pushed through sinh: neither its density nor its moments are a Gaussian's."""

    def head(self, width, size):
        return nn.Linear(width, 2 * size)

    def posterior(self, parameters):
        mu, raw = parameters.chunk(2, -1)
        base = dist.StudentT(5.0, mu, softplus(raw) + 0.1)
        return dist.TransformedDistribution(base, [dist.transforms.AffineTransform(0.3, 0.5)]).to_event(1)


def test_a_guide_that_is_not_gaussian_can_be_the_start():
    problem = PROBLEMS["nb-softmax-d2"](160)
    pair, unseen = amortised(problem, Skewed(encoder=ReadCell(widths=16)), steps=30)
    cells, exact = unseen.subset(torch.arange(8)), problem.exact[:8].numpy()
    table = evidences(Reader(pair, cells), 1000).table
    assert (np.abs(table["log_evidence"] - exact) < 4 * table["monte_carlo_se"]).all()
    one = log_evidence(pair, cells.take(torch.tensor([5])), 1000, dtype=torch.float64)
    np.testing.assert_allclose(one, table["log_evidence"][5:6], atol=1e-9)
    q = together(pair[1], cells.take(slice(None)).to(dtype=torch.float64))
    assert q.scale_tril.shape == (8, 2, 2)
