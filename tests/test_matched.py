"""A Gaussian whose scores are those of the posterior, where adaptive importance sampling starts."""

import pyro.distributions as dist
import torch
from fits import untrained
from torch.testing import assert_close

from pyroscvi.evidence.at_components import AtComponents
from pyroscvi.evidence.importance import estimate, log_weights
from pyroscvi.evidence.matched import Matched
from pyroscvi.evidence.points import normal_points, student_points
from pyroscvi.evidence.proposals import Elliptical, widened
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.streams import Streams
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, LatentSize, Mixture, StandardNormal

D, CELLS = 8, 3
AT_ORIGIN = Elliptical(torch.zeros(CELLS, D).double(), torch.eye(D).double().expand(CELLS, D, D))


def share(density, q, draws=400):
    """Effective share of the draws of a Student-t about q."""
    log_w = log_weights(density, widened(q), Streams(0, torch.arange(len(q.loc))), draws)
    return estimate(log_w).effective_sample_size / draws


def test_a_distant_and_correlated_normal_is_found():
    factor = 0.3 * torch.eye(D).double() + 0.1 * torch.randn(D, D).double().tril()
    far = dist.MultivariateNormal(torch.linspace(-4, 4, D).double(), scale_tril=factor)
    result = Matched()(AT_ORIGIN, far.log_prob)
    assert_close(result.parts.loc[0], far.mean.expand(CELLS, D), atol=0.05, rtol=0)
    covariance = result.parts.scale_tril[0] @ result.parts.scale_tril[0].mT
    assert_close(covariance, far.covariance_matrix.expand(CELLS, D, D), atol=0.03, rtol=0)
    assert (result.spread < 1).all()


def test_edges_of_a_density_are_averaged():
    """Like a decoder made of ReLUs: a curvature at one point is that of one side, or none."""

    def bent(u):
        return -0.5 * u.square().sum(-1) - 4 * (u - 0.2).clamp(min=0).sum(-1)

    assert (share(bent, Matched()(AT_ORIGIN, bent).parts.part(0)) > 0.2).all()


def test_draws_without_a_density_are_left_out():
    """Half of the first draws are where log p is minus infinity and has no gradient."""

    def positive(u):
        first, others = u[..., 0], u[..., 1:]
        gamma = 7 * first.clamp(min=0).log() - 4 * first
        return (gamma - 0.5 * others.square().sum(-1)).where(first > 0, torch.nan)

    result = Matched()(AT_ORIGIN, positive).parts
    assert result.loc.isfinite().all()
    assert result.scale_tril.isfinite().all()
    assert (result.loc[0, :, 0] > 0.5).all()


def test_cells_leave_when_they_are_close_enough():
    counts = []

    class Few:
        def __init__(self, n):
            self.n = n

        def __call__(self, u):
            counts.append(u.shape[1])
            return -0.5 * ((u - torch.tensor([0.0, 0.0, 5.0])[: u.shape[1], None].to(u)) / 0.5).square().sum(-1)

        def take(self, index):
            assert index.tolist() == [2]
            return lambda u: (counts.append(1), -0.5 * ((u - 5) / 0.5).square().sum(-1))[1]

    q = Elliptical(torch.zeros(3, D).double(), 0.5 * torch.eye(D).double().expand(3, D, D))
    result = Matched()(q, Few(3))
    assert counts[0] == 3
    assert set(counts[1:]) == {1}
    assert_close(result.parts.loc[0, :, 0], torch.tensor([0.0, 0.0, 5.0]).double(), atol=0.05, rtol=0)


def test_the_component_that_explains_a_cell_starts_at_its_posterior(cells):
    few = cells.subset(torch.arange(5))
    pair = untrained(SCVI(latent=2, prior=Mixture(components=3), likelihood=NB()), MeanField(), few)
    target = next(Reader(pair, few).targets())
    draws = AtComponents()(target.q, target.joint)
    best = target.joint.by_component(draws.parts.loc[-1:])[:, 0].argmax(0)
    assert_close(draws.parts.loc[best, torch.arange(5)], draws.parts.loc[-1])
    assert (draws.size[best, torch.arange(5)] > 0).all()
    assert (draws.size > 0).sum() == 5  # the others start at their priors


def test_a_mixture_takes_no_more_memory_than_one_component(cells):
    """Its components share one decoded draw; the levels of a label that a decoder reads do not."""
    chunks = [
        next(
            Reader(untrained(SCVI(prior=prior, size=LatentSize()), MeanField(), cells), cells, memory="2MB").targets()
        ).chunk
        for prior in (StandardNormal(), Mixture(components=8))
    ]
    assert chunks[0] == chunks[1]


def test_points_are_even():
    normal, (student, uniform) = normal_points(512, 3, 0), student_points(4096, 3, 10.0, 0)
    assert_close(normal.mean(0), torch.zeros(3).double(), atol=1e-12, rtol=0)
    assert_close(torch.cov(normal.T), torch.eye(3).double(), atol=0.03, rtol=0)
    assert_close(student.square().mean(0), torch.full((3,), 1.25).double(), rtol=0.05, atol=0)
    assert abs(uniform.mean() - 0.5) < 0.002
