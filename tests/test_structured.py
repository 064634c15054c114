"""The guide with a Gaussian for every type of a cell."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import one_mode, quick, untrained
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.guides import MeanField, Structured
from pyroscvi.inference.elbo import bound
from pyroscvi.models import GMVAE, SCVI, Annotated, Topics
from pyroscvi.parts import Mixture
from pyroscvi.program import enumerated_levels


def test_one_gaussian_for_every_level_that_is_summed_out(cells):
    for model, levels in ((SCVI(latent=3), {}), (GMVAE(latent=3, kinds=4), {"k": 4}), (Annotated(latent=3), {"y": 3})):
        model, guide = untrained(model, Structured(), cells)
        assert enumerated_levels(model, cells) == levels
        q = guide.posteriors(cells)["z"]
        assert getattr(q, "probs", torch.ones(60, 1)).shape == (60, *(levels.values() or [1]))
        assert q.mean.shape == q.variance.shape == (60, 3)


def test_without_levels_it_is_mean_field(cells):
    model, guide = untrained(SCVI(latent=3), Structured(), cells)
    other = MeanField().sized(model, cells).eval()
    other.load_state_dict({k.replace("heads.z.out", "heads.z"): v for k, v in guide.state_dict().items()})
    z = torch.randn(60, 3)
    assert_close(guide.posteriors(cells)["z"].log_prob(z), other.posteriors(cells)["z"].log_prob(z))


def test_with_equal_types_it_is_mean_field(cells):
    model, guide = untrained(GMVAE(latent=3, kinds=4), Structured(), cells)
    other = MeanField().sized(model, cells).eval()
    with torch.no_grad():
        out = guide.heads["z"].out
        out.weight[6:] = 0
        out.bias[6:] = 0
        other.encoder.load_state_dict(guide.encoder.state_dict())
        other.heads["z"].weight.copy_(out.weight[:6])
        other.heads["z"].bias.copy_(out.bias[:6])
    z = torch.randn(60, 3)
    assert_close(guide.posteriors(cells)["z"].log_prob(z), other.posteriors(cells)["z"].log_prob(z))


def test_a_cell_that_could_be_of_two_types_has_two_modes():
    """The exact posterior is the prior, two Gaussians: one of them misses log 2, and both together miss nothing."""
    (model, single), cells = one_mode(40)
    _, guide = untrained(model, Structured(), cells)
    with torch.no_grad():
        out = guide.heads["z"].out  # mu, sigma, two deltas, two deviations, two logits
        out.weight.zero_()
        out.bias.copy_(torch.tensor([0, 0, -0.8, -0.8, 3, 0, -3, 0, 0, 0, 0, 0, 0, 0]))
        model.prior.raw_s.fill_(-0.8)
        model.decoder.heads["rho"].weight[:, 1] = 0  # counts say nothing about z
        bounds = []
        for q in (single, guide):
            torch.manual_seed(0)
            bounds.append(torch.stack([bound(model, q, cells).cells for _ in range(20)]).mean().item())
    assert bounds[1] - bounds[0] == pytest.approx(np.log(2), abs=0.05)


def test_its_samples_have_its_moments(cells):
    _, guide = untrained(GMVAE(latent=3, kinds=4), Structured(), cells)
    with torch.no_grad():
        guide.heads["z"].out.bias[6:] += torch.randn_like(guide.heads["z"].out.bias[6:])
        q = guide.posteriors(cells)["z"]
        draws = q.rsample(torch.Size([4000]))
    assert ((draws.mean(0) - q.mean).abs() < 5 * q.variance.sqrt() / 4000**0.5).all()
    assert_close(draws.var(0), q.variance, rtol=0.25, atol=0)


@pytest.mark.parametrize(
    "model",
    [Annotated(latent=2), SCVI(latent=2, prior=Mixture(components=3)), Topics(latent=3)],
    ids=repr,
)
def test_fits_evidence_and_analyses_work_under_it(model, cells, tmp_path):
    cells = replace(cells, graph=None)
    f = quick(model, Structured(), cells, epochs=6, lr=1e-2)
    assert f.history["loss"].iloc[-1] < f.history["loss"].iloc[0]
    few = cells.subset(torch.arange(4))
    assert np.isfinite(ps.log_evidence(f, few, particles=50)).all()
    assert f.latent(few).shape == (4, model.latent)
    assert f.denoise(few, samples=2).shape == (4, 12)
    f.save(tmp_path / "fit")
    np.testing.assert_array_equal(ps.load(tmp_path / "fit").latent(few), f.latent(few))


def test_the_evidence_is_that_of_any_other_guide(cells):
    few = replace(cells, graph=None).subset(torch.arange(6))
    model, guide = untrained(GMVAE(latent=2, kinds=3), Structured(), few)
    other = MeanField().sized(model, few).eval()
    one, two = (ps.log_evidence((model, q), few, particles=2000) for q in (guide, other))
    np.testing.assert_allclose(one, two, atol=0.1)
