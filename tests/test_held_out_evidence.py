"""Early stopping by another value than the ELBO: the evidence of held-out cells, or any function."""

import pytest
import torch
from fits import interrupted_after, quick, same

import pyroscvi as ps
from pyroscvi.data.datasets import simulated
from pyroscvi.evidence.held_out_evidence import HeldOutEvidence
from pyroscvi.fitting.resume import Folder
from pyroscvi.guides import MeanField
from pyroscvi.inference.schedules import CosineDecay, Patience
from pyroscvi.models import SCVI
from pyroscvi.parts import MLP, NB, Linear, ReadCell

QUICK = HeldOutEvidence(cells=20, particles=50)


def few():
    """120 cells for training, and 80 others."""
    cells = ps.Fields(counts="counts").read(simulated(cells=200, genes=100, seed=1))
    return cells.split(0.4, seed=0)


def overfitting_fit(**options):
    """A fit whose guide overfits: its encoder is wide and has no dropout, and the learning rate stays large."""
    return quick(
        SCVI(latent=4, likelihood=NB(), decoder=Linear()),
        MeanField(encoder=ReadCell(widths=256, dropout=0.0)),
        few()[0],
        **{"epochs": 120, "lr": 5e-3, "decay": CosineDecay(end=1.0), "validation": 0.3, "warmup": 0.05, **options},
    )


def test_the_state_with_the_best_watched_value_is_kept():
    fit = overfitting_fit(epochs=60, early_stopping=Patience(12, watch=QUICK, every=4))
    history = fit.history.set_index("epoch")["watched"]
    looked = history.dropna()
    assert list(looked.index) == [epoch for epoch in history.index if epoch % 4 == 0 and epoch >= 0.05 * 60]
    assert fit.record["best_epoch"] == looked.idxmax()
    assert fit.record["stopped_early"] == (len(history) < 60)
    assert len(history) in (60, looked.idxmax() + 12)
    _, held_out = few()[0].split(0.3, seed=0)
    assert QUICK(fit.model, fit.guide, held_out) == pytest.approx(looked.max(), abs=1e-6)


def test_watching_does_not_change_training(cells):
    def watch(model, guide, held_out):
        return QUICK(model, guide, held_out) + 1e-9 * torch.rand(()).item()

    model = SCVI(latent=3, decoder=MLP(dropout=0.3))
    looked = quick(model, MeanField(), cells, epochs=6, early_stopping=Patience(6, watch=watch), warmup=0.0)
    blind = quick(model, MeanField(), cells, epochs=6, early_stopping=False, warmup=0.0)
    for column in ("loss", "elbo_train", "elbo_held_out"):
        assert looked.history[column].tolist() == blind.history[column].tolist()
    assert "watched" not in blind.history


def test_any_function_may_be_watched(cells):
    class Watch:
        looks = []

        def __call__(self, model, guide, held_out):
            self.looks.append((model.training, guide.training, len(held_out)))
            return -abs(len(self.looks) - 4.0)  # the fourth look is the best: one before the run, three in it

    fit = quick(SCVI(latent=3), MeanField(), cells, epochs=30, early_stopping=Patience(2, watch=Watch()), warmup=0.0)
    assert fit.record["best_epoch"] == 3
    assert len(fit.history) == 5
    assert Watch.looks == [(False, False, 6)] * 6


def test_patience_lasts_at_least_a_tenth_of_the_run(cells):
    class Falling:
        n = 0

        def __call__(self, model, guide, held_out):
            self.n -= 1
            return float(self.n)

    for epochs, waited in ((200, 20), (40, 10)):
        options = {"epochs": epochs, "batch_size": 60, "warmup": 0.0}
        fit = quick(SCVI(latent=2), MeanField(), cells, early_stopping=Patience(watch=Falling()), **options)
        assert len(fit.history) == 1 + waited


def test_a_watched_value_of_the_wrong_kind_is_refused_before_the_run(cells):
    with pytest.raises(TypeError, match="early_stopping is True, False or a Patience, not 'evidence'"):
        quick(SCVI(latent=2), MeanField(), cells, early_stopping="evidence")


def test_an_interrupted_run_is_resumed_bitwise(cells, tmp_path):
    options = {"epochs": 12, "warmup": 0.2, "early_stopping": Patience(6, watch=QUICK, every=2)}
    model, guide = SCVI(latent=3), MeanField()
    straight = quick(model, guide, cells, objectives=[interrupted_after(10**6)], **options)
    folder = Folder(tmp_path, seconds=0.0)
    with pytest.warns(UserWarning, match="interrupted"):
        quick(model, guide, cells, objectives=[interrupted_after(22)], folder=folder, **options)
    resumed = quick(model, guide, cells, objectives=[interrupted_after(10**6)], folder=folder, **options)
    assert same(straight, resumed)
    assert straight.record["best_epoch"] == resumed.record["best_epoch"]
    assert straight.history["watched"].equals(resumed.history["watched"])
