"""Descriptions of cells: latents, divergences, likelihood and counts."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from fits import quick

from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.inference.elbo import bound
from pyroscvi.inference.seeds import seeded
from pyroscvi.models import GMVAE, LDVAE, SCVI, Annotated
from pyroscvi.parts import (
    NB,
)


@pytest.fixture
def nb(cells):
    return quick(SCVI(latent=3, likelihood=NB()), FullCovariance(), cells, epochs=20, lr=1e-2)


@pytest.mark.parametrize("model", [SCVI(latent=3), LDVAE(latent=3), GMVAE(latent=3), Annotated(latent=3)], ids=repr)
def test_description_adds_up_to_the_bound(model, cells):
    f = quick(model, FullCovariance(), cells)
    d = f.describe(cells, seed=5)
    with torch.no_grad(), seeded(5):
        exact = bound(f.model, f.guide, cells).cells
    torch.testing.assert_close(d.elbo, exact, rtol=1e-4, atol=1e-4)


def test_description_has_everything(cells):
    f = quick(Annotated(latent=3), FullCovariance(), cells)
    d = f.describe(cells)
    assert d.mean.shape == d.sample.shape == d.log_variance.shape == (60, 3)
    assert d.covariance.shape == (60, 3, 3)
    assert d.log_likelihood.shape == d.class_loss.shape == (60,)
    assert d.counts.mean.shape == (60, 12)
    assert d.logits["y"].shape == (60, 3)
    np.testing.assert_allclose(d.mean, f.latent(cells), atol=1e-5)
    torch.testing.assert_close(d.covariance.diagonal(dim1=1, dim2=2).log(), d.log_variance)
    assert (torch.linalg.eigvalsh(d.covariance) > 0).all()
    torch.testing.assert_close(d.probabilities["y"].sum(-1), torch.ones(60))
    known = cells.label >= 0
    assert d.class_loss[~known].isnan().all()
    torch.testing.assert_close(d.class_loss[known], -d.logits["y"][known, cells.label[known]])
    assert "mean=[60, 3]" in repr(d)


def test_description_of_a_plain_page(nb, cells):
    d = nb.describe(cells)
    assert d.logits == {}
    assert d.class_loss is None
    assert list(d.kl) == ["z"]
    q, p = nb.guide.posteriors(cells)["z"], dist.MultivariateNormal(torch.zeros(3), torch.eye(3))
    torch.testing.assert_close(d.kl["z"], dist.kl.kl_divergence(q, p).detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(d.log_likelihood, d.counts.log_prob(cells.x))


def test_description_of_several_latents(cells):
    f = quick(LDVAE(latent=3), MeanField(), cells)
    assert set(f.describe(cells).kl) == {"z", "l"}
    assert f.describe(cells, site="l").mean.shape == (60, 1)


def test_description_has_probabilities_of_kinds(cells):
    f = quick(GMVAE(latent=3), MeanField(), cells)
    d = f.describe(cells)
    torch.testing.assert_close(d.probabilities["k"], f.model.responsibilities(d.sample).detach(), atol=1e-5, rtol=1e-4)
    assert set(d.kl) == {"z"}
