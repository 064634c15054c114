"""How a fit is trained: the learning rate falls, weights have a prior, dispersions arrive wherever they start."""

import math

import pytest
import torch
from fits import quick, same

import pyroscvi as ps
from pyroscvi.data.datasets import simulated
from pyroscvi.guides import MeanField
from pyroscvi.inference import run
from pyroscvi.inference.schedules import CosineDecay
from pyroscvi.models import SCVI
from pyroscvi.parts import MLP, NB, ZINB, FlatWeights, Linear, NormalWeights, PerGene


def test_the_rate_falls_along_half_a_cosine():
    decay = CosineDecay(end=0.1)
    assert [decay(progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.55, 0.1])
    assert {CosineDecay(end=1.0)(progress) for progress in (0.0, 0.3, 1.0)} == {1.0}
    with pytest.raises(ValueError, match=r"end is the fraction of the learning rate that is left, in \[0, 1\], not 2"):
        CosineDecay(end=2)


def test_the_optimiser_steps_at_the_rate_of_the_schedule(cells, monkeypatch):
    rates = []
    step = torch.optim.Adam.step

    def noted(adam, *args):
        rates.append([group["lr"] for group in adam.param_groups])
        return step(adam, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    quick(SCVI(latent=3), MeanField(), cells, epochs=2, batch_size=27, lr=1.0, clip=1e-6)
    expected = [CosineDecay()(progress) for progress in (0.0, 0.25, 0.5, 0.75)]
    assert [own for own, _ in rates] == pytest.approx(expected)
    assert [single for _, single in rates] == pytest.approx([run.SINGLE_RATE * rate for rate in expected])


def test_dispersions_do_not_depend_on_their_start():
    """Log theta starts at 0, at 3, or at the truth, and arrives at the same values."""
    cells = ps.Fields(counts="counts").read(simulated(cells=400, genes=40, theta=5.0, seed=2))

    def fitted(start):
        model = SCVI(latent=2, likelihood=NB(dispersion=PerGene(start=start)))
        return quick(model, MeanField(), cells, epochs=60, batch_size=40).model.likelihood.dispersion.log_theta

    low, high = fitted(0.0), fitted(3.0)
    assert (low - high).abs().mean() < 0.1
    assert abs(low.mean() - math.log(5.0)) < 0.3


def test_weights_have_a_normal_prior(cells):
    decoder = MLP(widths=7, weights=NormalWeights(s=0.5)).sized(cells.dims, latent=3, conditions=2, heads=("rho",))
    hidden, head = decoder.layers.linear[0].weight, decoder.heads["rho"].weight
    priors = [torch.distributions.Normal(0.0, 0.5 / math.sqrt(inputs)) for inputs in (5, 7)]
    density = priors[0].log_prob(hidden).sum() + priors[1].log_prob(head).sum()
    constant = priors[0].log_prob(torch.zeros(7, 5)).sum() + priors[1].log_prob(torch.zeros(12, 7)).sum()
    assert torch.isclose(decoder.log_prior(), density - constant)


def test_a_narrow_prior_shrinks_weights_and_a_flat_one_changes_nothing(cells):
    def fitted(weights, **options):
        return quick(SCVI(latent=3, decoder=MLP(weights=weights)), MeanField(), cells, epochs=20, **options)

    flat, wide, narrow = fitted(FlatWeights()), fitted(NormalWeights(s=1e6)), fitted(NormalWeights(s=0.1))
    size = {
        name: fit.model.decoder.heads["rho"].weight.square().mean()
        for name, fit in (("flat", flat), ("narrow", narrow))
    }
    assert size["narrow"] < 0.5 * size["flat"]
    assert not same(flat, narrow)
    assert torch.allclose(flat.model.decoder.heads["rho"].weight, wide.model.decoder.heads["rho"].weight, atol=1e-3)


def test_a_fit_uses_all_cells_and_all_epochs_by_default(cells):
    fit = ps.fit(SCVI(latent=3), MeanField(), cells, epochs=3, progress=False)
    assert fit.record["cells"] == {"train": 60, "held_out": 0}
    assert fit.record["best_epoch"] is None
    assert len(fit.history) == 3
    assert fit.history["elbo_held_out"].isna().all()


def test_a_gate_starts_almost_closed(cells):
    """So that a ZINB starts near the NB that it contains."""
    for decoder in (MLP(), Linear()):
        heads = SCVI(latent=3, decoder=decoder, likelihood=ZINB()).sized(cells.dims).decoder.heads
        assert (heads["gate"].bias == -3).all()
        assert torch.allclose(heads["rho"].bias, cells.dims.profile.log())
