"""Fits that hold the posterior of their cells, and none of their counts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import quick

import pyroscvi as ps
from pyroscvi.guides import Flow, FullCovariance, MeanField, SpatialGNN
from pyroscvi.models import LDVAE, SCVI, Mixture
from pyroscvi.parts import NB, Continuous, OneHot, RandomDispersion, SizeFactor, VampPrior


@pytest.mark.parametrize(
    ("model", "guide"),
    [
        (SCVI(latent=2), FullCovariance()),
        (LDVAE(latent=2, likelihood=NB(dispersion=RandomDispersion())), MeanField()),
        (SCVI(latent=2, size=SizeFactor(), condition=OneHot("batch") + Continuous()), SpatialGNN()),
    ],
    ids=repr,
)
def test_a_minified_fit_gives_what_the_fit_gives(model, guide, with_covariates, cells, tmp_path):
    cells = replace(with_covariates, graph=cells.graph, names=np.array([f"c{i}" for i in range(60)], dtype=object))
    cells = replace(cells, size_factor=cells.library[:, 0])
    f = quick(model, guide, cells, epochs=2)
    f.minified(cells).save(tmp_path / "fit")
    small = ps.load(tmp_path / "fit")
    assert list(small.cells.names) == list(cells.names)
    np.testing.assert_allclose(small.latent(small.cells), f.latent(cells), atol=1e-6)
    np.testing.assert_allclose(small.cells.library, cells.library)
    for given in ({}, {"batch": "b"}):
        one, two = (fit.denoise(c, given=given, samples=40) for fit, c in ((small, small.cells), (f, cells)))
        np.testing.assert_allclose(one.mean(0), two.mean(0), rtol=0.1)
    assert small.generate(small.cells).shape == (60, 12)


def test_no_count_is_left(cells):
    f = quick(SCVI(latent=2), MeanField(), cells, epochs=1)
    other = replace(cells, counts=cells.counts.flip(1))  # the same totals
    one, two = f.minified(cells), f.minified(other)
    assert torch.equal(one.cells.x, two.cells.x)
    stored = sum(t.numel() for t in one.guide.state_dict().values())
    assert stored == 60 * (2 + 4 + 1 + 1 + 3)  # mean, factor, size, size factor, three fields


def test_a_flow_becomes_the_gaussian_with_its_moments(cells):
    f = quick(SCVI(latent=2), Flow(), replace(cells, graph=None), epochs=1)
    small = f.minified(cells)
    np.testing.assert_allclose(small.latent(small.cells), f.latent(cells), atol=1e-5)


def test_what_a_minified_fit_cannot_do_is_refused_with_a_reason(cells):
    f = quick(SCVI(latent=2), MeanField(), cells, epochs=1)
    small = f.minified(cells.subset(torch.arange(5)))
    with pytest.raises(ValueError, match="a minified fit has no counts"):
        small.log_evidence(small.cells)
    with pytest.raises(ValueError, match="knows 5 cells and no others"):
        small.latent(cells)
    with pytest.raises(AttributeError, match="only a minified fit holds cells"):
        f.cells  # noqa: B018
    with pytest.raises(ValueError, match="Mixture has no latents of cells"):
        quick(Mixture(kinds=2), MeanField(), cells, epochs=1).minified(cells)
    with pytest.raises(ValueError, match="is made of the guide"):
        quick(SCVI(latent=2, prior=VampPrior(components=3)), MeanField(), cells, epochs=1).minified(cells)
