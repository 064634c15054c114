"""The sleep phase: a guide that learns from simulated cells becomes as wide as the posterior, and the model stays."""

import pytest
import torch
from fits import quick

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.fitting.sleep import Sleep
from pyroscvi.guides import FullCovariance, MeanField, SpatialGNN
from pyroscvi.models import GMVAE, PPCA, SCVI, Annotated
from pyroscvi.parts import NB, LatentSize


def test_posteriors_of_a_mean_field_become_wide_enough():
    """Loadings along one direction: the best mean field by ELBO is far too narrow."""
    cells = Cells(torch.poisson(torch.full((200, 6), 20.0), generator=torch.Generator().manual_seed(0)))
    along = torch.linspace(0.3, 0.5, 6)
    model = PPCA(latent=2).sized(cells.dims)
    with torch.no_grad():
        model.W.copy_(torch.stack([along, along + 0.02], -1))
        model.log_sigma.fill_(-0.5)
    guide = MeanField().sized(model, cells)
    fit = ps.fit(model.requires_grad_(False), guide, cells, epochs=40, lr=1e-2, progress=False)
    wider = fit.adapted(cells, epochs=40, lr=1e-2, objectives=[Sleep(weight=10.0)], progress=False)
    assert torch.equal(model.W, wider.model.W)
    exact = model.posterior(cells.x)
    sd = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt().mean()
    narrow = exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt().mean()  # of the mean field with the best ELBO
    before, after = ((f.guide.posteriors(cells)["z"].stddev.mean() / sd).item() for f in (fit, wider))
    assert before == pytest.approx((narrow / sd).item(), rel=0.1)
    assert before < 0.75
    assert 0.9 < after < 1.05


@pytest.mark.parametrize(
    ("model", "guide"),
    [
        (SCVI(latent=2, size=LatentSize(), likelihood=NB()), FullCovariance()),
        (GMVAE(latent=2), MeanField()),
        (Annotated(latent=2), MeanField()),
        (SCVI(latent=2), SpatialGNN()),
    ],
    ids=["latent size", "mixture", "labels", "neighbours"],
)
def test_gradients_reach_the_guide_alone(model, guide, cells):
    f = quick(model, guide, cells, epochs=1)
    for program in (f.model, f.guide):
        program.train().zero_grad()  # of the fit
    cells = f.read(cells)
    loss = Sleep(weight=2.0)(f.model, f.guide, cells.take(torch.arange(20), f.guide.encoder.hops))
    assert loss.shape == (20,)
    assert loss.abs().max() < 200  # also of a size, whose posterior is one of its logarithm
    loss.mean().backward()
    assert all(p.grad is None for p in f.model.parameters())
    assert all(head.grad.abs().sum() > 0 for head in f.guide.heads.parameters())
    assert f.model.training
