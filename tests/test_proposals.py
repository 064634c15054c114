"""Proposals, standard errors of their estimates, and their random numbers."""

from math import log

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from fits import one_mode, untrained
from quadrature import quadrature
from torch.testing import assert_close

from pyroscvi.evidence.estimator import Importance
from pyroscvi.evidence.importance import estimate, k_hat, log_weights
from pyroscvi.evidence.proposals import Elliptical, Mixed, StudentT
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.refined import Refined
from pyroscvi.evidence.streams import Streams
from pyroscvi.evidence.table import evidences, log_evidence
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import (
    NB,
    Laplace,
    Linear,
    Mixture,
    SizeFactor,
    StandardNormal,
)
from pyroscvi.report.arviz_versions import arviz


def test_elliptical_draws_follow_their_density():
    loc, factor = torch.randn(3, 2).double(), torch.randn(3, 2, 2).double().tril()
    factor.diagonal(dim1=-2, dim2=-1).abs_().add_(0.5)
    u = torch.randn(7, 3, 2).double()
    normal = dist.MultivariateNormal(loc, scale_tril=factor)
    student = dist.MultivariateStudentT(torch.tensor(5.0).double(), loc, factor)
    assert_close(Elliptical(loc, factor).log_prob(u), normal.log_prob(u))
    assert_close(Elliptical(loc, factor, 5.0).log_prob(u), student.log_prob(u))
    draws = Elliptical(loc, factor, 5.0).sample(Streams(0, torch.arange(3)), 200_000)
    assert_close(draws.mean(0), loc, atol=0.02, rtol=0)
    covariance = torch.stack([torch.cov(draws[:, n].T) for n in range(3)])
    assert_close(covariance, factor @ factor.mT * 5 / 3, rtol=0.05, atol=0.05)


def narrow(scale, cells):
    """log weights on a standard normal whose proposal is too narrow by ``scale``."""
    return Elliptical(torch.zeros(cells, 2).double(), scale * torch.eye(2).double().expand(cells, 2, 2))


def standard_normal(u):
    return dist.Normal(0.0, 1.0).log_prob(u).sum(-1)


def test_heavy_tails_correct_a_proposal_that_is_too_narrow():
    streams, q = Streams(0, torch.arange(200)), narrow(0.5, 200)
    thin = estimate(log_weights(standard_normal, q, streams, 1000))
    heavy = estimate(log_weights(standard_normal, StudentT()(q, standard_normal), streams, 1000))
    assert heavy.log_evidence.abs().mean() < 0.5 * thin.log_evidence.abs().mean()
    assert (heavy.k_hat < 0.5).double().mean() > 0.95
    assert (thin.k_hat > 0.5).double().mean() > 0.9


@pytest.mark.parametrize("prior", [StandardNormal(), Laplace(), Mixture(components=3)], ids=repr)
def test_a_proposal_for_each_cell_needs_no_good_guide(small, prior):
    model = SCVI(latent=2, prior=prior, decoder=Linear(), likelihood=NB(), size=SizeFactor())
    pair = untrained(model, MeanField(), small)
    exact = quadrature(pair, small, points=201)
    table = evidences(Reader(pair, small), 5000, estimator=Importance(Refined())).table
    double = {"estimator": Importance(Refined()), "dtype": torch.float64}
    pieces = log_evidence(pair, small, 5000, batch_size=7, chunk=333, **double)
    np.testing.assert_allclose(pieces, table["log_evidence"], atol=1e-9, rtol=0)
    error = (table["log_evidence"] - exact).abs()
    assert (error < 4 * table["monte_carlo_se"]).all()
    assert error.mean() < 0.02
    assert error.max() < 0.05


def test_a_mode_that_the_guide_has_missed_is_found():
    """Two kinds of cell with equal counts: a guide with one mode misses the other, and k-hat does not show it."""
    (model, guide), cells = one_mode(8)
    exact = quadrature((model, guide), cells, points=201)
    missed = evidences(Reader((model, guide), cells), 1000, estimator=Importance()).table
    assert_close(missed["log_evidence"].to_numpy(), exact - log(2.0), atol=0.1, rtol=0)
    assert missed["k_hat"].max() < 0.7
    result = log_evidence((model, guide), cells, 5000, estimator=Importance(Refined()))
    np.testing.assert_allclose(result, exact, atol=0.05)


def test_a_normal_posterior_is_found_in_one_step():
    precision = torch.tensor([[3.0, 1.0], [1.0, 2.0]]).double()
    target = dist.MultivariateNormal(torch.tensor([4.0, -2.0]).double(), precision_matrix=precision)
    q = Elliptical(torch.zeros(5, 2).double(), torch.eye(2).double().expand(5, 2, 2))
    parts = Refined(widen=1.0)(q, target.log_prob).parts
    result, own = parts.part(0), parts.part(1)
    assert_close(result.loc, target.mean.expand(5, 2), atol=1e-2, rtol=0)
    assert_close(result.scale_tril, target.scale_tril.expand(5, 2, 2))
    assert own.df == 5.0
    assert_close(own.loc, q.loc)


def test_the_width_of_a_flat_mode_with_an_edge():
    """Like a mode of a decoder made of ReLUs: its curvature is zero or that of an edge, and the density ends nearby."""

    def box(u):
        return -8 * (u.abs() - torch.tensor([1.0, 0.3, 0.1, 2.0]).to(u)).clamp(min=0).sum(-1)

    exact = log(2.25) + log(0.85) + log(0.45) + log(4.25)  # each floor, and 1/8 of a tail to both sides
    q = Elliptical(torch.full((20, 4), 0.05).double(), 0.3 * torch.eye(4).double().expand(20, 4, 4))
    draws = Refined()(q, box)
    assert (draws.parts.part(0).scale_tril.diagonal(dim1=-2, dim2=-1) < 5).all()
    result = estimate(log_weights(box, draws, Streams(0, torch.arange(20)), 4000))
    assert_close(result.log_evidence, torch.full((20,), exact).double(), atol=0.15, rtol=0)
    assert result.k_hat.max() < 0.7


def test_draws_of_a_mixture_follow_its_density():
    loc = torch.stack([torch.zeros(3, 2), torch.ones(3, 2)]).double()
    two = Elliptical(loc, torch.tensor([0.5, 1.0]).double().view(2, 1, 1, 1) * torch.eye(2).expand(2, 3, 2, 2), 5.0)
    weights = torch.tensor([[0.3, 0.5, 1.0], [0.7, 0.5, 0.0]]).double()
    mixed = Mixed(two, weights, torch.ones(3), torch.zeros(2, 3))
    draws = mixed.sample(Streams(0, torch.arange(3)), 100_000)
    assert_close(draws.mean(0), weights[1, :, None].expand(3, 2), atol=0.02, rtol=0)
    # For any proposal, the weights of a normalised density have mean one.
    ratio = (standard_normal(draws) - mixed.log_prob(draws)).exp().mean(0)
    assert_close(ratio[:2], torch.ones(2).double(), atol=0.02, rtol=0)


def test_two_standard_errors_cover():
    q = Elliptical(torch.full((4000, 2), 0.3).double(), 1.2 * torch.eye(2).double().expand(4000, 2, 2))
    result = estimate(log_weights(standard_normal, q, Streams(1, torch.arange(4000)), 400))
    covered = (result.log_evidence.abs() < 2 * result.monte_carlo_se).double().mean().item()
    assert 0.93 < covered < 0.97


@pytest.mark.parametrize("s", [30, 400, 3000])
def test_k_hat_is_that_of_arviz(s):
    log_w = torch.randn(s, 5).double() * torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0])
    theirs = [float(arviz().psislw(log_w[:, n].numpy().copy())[1]) for n in range(5)]
    np.testing.assert_allclose(k_hat(log_w), theirs, atol=1e-6)


def test_k_hat_where_there_is_no_tail():
    assert k_hat(torch.zeros(100, 3)).tolist() == [-torch.inf] * 3
    assert k_hat(torch.randn(20, 3)).isnan().all()


def test_one_dominant_weight_has_a_heavy_tail():
    """The other weights underflow beside it, and must not be treated as constant."""
    assert (k_hat(200 * torch.randn(1000, 3).double()) > 5).all()
    assert k_hat(torch.tensor([0.0, *[-torch.inf] * 999]).double()[:, None]) > 5


def test_streams_give_the_same_numbers_in_any_pieces():
    whole, pieces = Streams(3, torch.arange(4)), Streams(3, torch.arange(4))
    assert torch.equal(whole.normal(10, 2), torch.cat([pieces.normal(3, 2), pieces.normal(7, 2)]))
    assert torch.equal(whole.chi2(5.0, 10), torch.cat([pieces.chi2(5.0, 9), pieces.chi2(5.0, 1)]))
    assert not torch.equal(Streams(3, torch.arange(4)).normal(5, 2), Streams(4, torch.arange(4)).normal(5, 2))
