"""The flow: its density, what it can represent, and what becomes of it where a Gaussian is expected."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import TransformedDistribution
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.proposals import flow_moments
from pyroscvi.guides import Flow, FullCovariance
from pyroscvi.inference.elbo import bound
from pyroscvi.inference.seeds import seeded
from pyroscvi.models import LDVAE, SCVI, Topics
from pyroscvi.parts import LatentSize, Linear, NormalLoadings, Prior, ReadCell, StandardNormal, VampPrior
from pyroscvi.program import Model

NOISE = 0.2


class Curved(Model):
    """One number x, given which z lies near a parabola: x ~ Normal(z[1] - z[0]^2, 0.2)."""

    latent: int = 2
    prior: Prior = StandardNormal()

    def model(self, cells):
        with cells.plate():
            z = self.prior()
            mean = z[..., 1:] - z[..., :1] ** 2
            pyro.sample("x", dist.Normal(mean, NOISE).to_event(1), obs=cells.x)

    def evidence(self, x):
        """log p(x) [n], with z[1] integrated in closed form and z[0] on a grid."""
        z = torch.linspace(-6, 6, 2001)
        log_p = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(-(z**2), (1 + NOISE**2) ** 0.5).log_prob(x)
        return log_p.logsumexp(-1) + (z[1] - z[0]).log()


def posterior(cells, latent=3):
    with seeded(0):
        model = SCVI(latent=latent).sized(cells.dims)
        return Flow(hidden=16).sized(model, cells).eval().posteriors(cells)["z"]


def test_density_is_that_of_the_gaussian_over_the_determinant_of_the_jacobian(cells):
    with seeded(0):
        q = posterior(cells)
        z = q.rsample()
    e = q.base_dist.sample()[:1].expand(len(cells), -1)

    def flow(u):
        for step in q.transforms:
            u = step(u)
        return u

    jacobian = torch.autograd.functional.jacobian(lambda u: flow(u).sum(0), e)[:, torch.arange(len(cells))].movedim(
        1, 0
    )
    expected = q.base_dist.log_prob(e) - torch.linalg.slogdet(jacobian).logabsdet
    assert_close(q.log_prob(flow(e).clone()), expected, rtol=1e-4, atol=1e-4)
    assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-4, atol=1e-4)  # remembered, and inverted


def gap(guide, cells, steps=400):
    """Evidence minus ELBO of the model that does not change, in nats a cell, after training the guide."""
    with seeded(0):
        model = Curved().sized(cells.dims)
        guide = guide.sized(model, cells)
        optimiser = torch.optim.Adam(guide.parameters(), lr=0.01)
        for _ in range(steps):
            optimiser.zero_grad()
            (-bound(model, guide, cells).cells.mean()).backward()
            optimiser.step()
        with torch.no_grad():
            elbo = torch.stack([bound(model, guide, cells).cells.mean() for _ in range(100)]).mean()
    return float(model.evidence(cells.x).mean() - elbo)


def test_it_follows_a_curved_posterior_that_no_gaussian_can():
    cells, encoder = Cells(torch.arange(3.0).repeat(30).unsqueeze(-1)), ReadCell(widths=16, dropout=0.0)
    of_flow, of_gaussian = (gap(kind(encoder=encoder), cells) for kind in (Flow, FullCovariance))
    assert 0 < of_flow < of_gaussian / 4


def test_moments_are_those_of_samples_and_do_not_depend_on_the_other_cells(cells):
    loc, scale_tril = flow_moments(posterior(cells))
    with seeded(1):
        z = posterior(cells).sample((4000,))
    assert_close(loc, z.mean(0), atol=0.2, rtol=0)
    assert_close((scale_tril @ scale_tril.mT).diagonal(dim1=-2, dim2=-1), z.var(0), rtol=0.3, atol=0)
    with seeded(0):
        guide = Flow(hidden=16).sized(SCVI(latent=3).sized(cells.dims), cells).eval()
    few = flow_moments(guide.posteriors(cells.take([3, 7]))["z"])
    assert_close(few[0], flow_moments(guide.posteriors(cells)["z"])[0][[3, 7]])


def test_the_mean_of_a_latent_on_the_simplex_is_on_the_simplex(cells):
    for guide in (Flow(hidden=16), FullCovariance()):
        fit = ps.fit(Topics(latent=3), guide, cells, epochs=1, progress=False)
        mean = fit.latent(cells)
        assert (mean > 0).all()
        np.testing.assert_allclose(mean.sum(1), 1, rtol=1e-5)


def test_single_numbers_and_latents_that_cells_share_are_gaussian(cells):
    with seeded(0):
        model = LDVAE(latent=2, size=LatentSize(), decoder=Linear(loadings=NormalLoadings())).sized(cells.dims)
        q = Flow().sized(model, cells).posteriors(cells)
    assert {name for name, each in q.items() if isinstance(each, TransformedDistribution)} == {"z"}
    assert set(q) == {"z", "l", "W"}


def test_a_mixture_of_posteriors_needs_gaussian_ones(cells):
    with pytest.raises(ValueError, match="VampPrior needs a guide whose posteriors are Gaussian"):
        ps.fit(SCVI(latent=2, prior=VampPrior(components=3)), Flow(), cells, epochs=1, progress=False)
