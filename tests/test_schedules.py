"""Warm-ups of the KL weight, and early stopping."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import quick

from pyroscvi.guides import MeanField
from pyroscvi.inference.evaluation import evaluate
from pyroscvi.inference.schedules import Constant, Cosine, Cyclical, LinearWarmup, Patience
from pyroscvi.models import SCVI
from pyroscvi.parts import MLP, ReadCell

# Schedules


@pytest.mark.parametrize(
    "schedule", [LinearWarmup(0.25), LinearWarmup(0.0), Cosine(0.5), Cyclical(), Cyclical(1, 0.9)], ids=repr
)
def test_a_warm_up_ends_at_one_and_stays(schedule):
    assert schedule.settled < 1
    for progress in np.linspace(schedule.settled, 1, 50):
        assert schedule(progress) == 1
    assert all(0 <= schedule(progress) <= 1 for progress in np.linspace(0, 1, 200))


def test_schedules_at_known_points():
    assert [LinearWarmup(0.5)(t) for t in (0, 0.25, 0.5, 1)] == [0, 0.5, 1, 1]
    assert [LinearWarmup(0.5, start=0.2)(t) for t in (0, 0.25)] == pytest.approx([0.2, 0.6])
    assert [round(Cosine(0.5)(t), 6) for t in (0, 0.125, 0.25, 0.5)] == [0, 0.146447, 0.5, 1]
    assert [round(Cyclical(2, 0.5)(t), 6) for t in (0, 0.125, 0.25, 0.49, 0.5, 0.625, 0.75, 1)] == [
        0, 0.5, 1, 1, 0, 0.5, 1, 1,
    ]  # fmt: skip
    assert Constant(4.0)(0.3) == 4


@pytest.mark.parametrize(
    "wrong", [lambda: LinearWarmup(1.0), lambda: LinearWarmup(-0.1), lambda: Cyclical(0), lambda: Cyclical(2, 1)]
)
def test_a_warm_up_that_would_not_end_is_refused(wrong):
    with pytest.raises(ValueError, match="fraction"):
        wrong()


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
def test_the_kl_weight_reaches_its_final_value_in_a_short_run(epochs, cells):
    f = quick(SCVI(latent=3), MeanField(), cells, epochs=epochs, warmup=0.6)
    assert f.record["kl_weight"] == f.history["kl_weight"].iloc[-1] == 1
    assert (f.history["kl_weight"].diff().dropna() >= 0).all()


def test_the_kl_weight_multiplies_the_kl(cells):
    """Two runs that go nowhere, with the KL counted once and not at all: their losses differ by the KL."""
    guide = MeanField(encoder=ReadCell(dropout=0.0))
    options = {"epochs": 1, "lr": 1e-12, "validation": 0.0}
    once, never = (quick(SCVI(latent=3), guide, cells, warmup=Constant(beta), **options) for beta in (1.0, 0.0))
    kl = once.describe(cells).kl["z"].mean().item()
    assert kl > 0.01
    assert once.history["loss"][0] - never.history["loss"][0] == pytest.approx(kl, rel=1e-3)


def test_kl_weight_is_recorded_every_epoch(cells):
    f = quick(SCVI(latent=3), MeanField(), cells, epochs=4, batch_size=60, validation=0, warmup=LinearWarmup(0.8))
    assert f.history["kl_weight"].tolist() == pytest.approx([0, 0.3125, 0.625, 0.9375])
    f = quick(SCVI(latent=3), MeanField(), cells, warmup=Constant(0.2))
    assert f.record["kl_weight"] == 0.2


# Early stopping


def worsening(cells, **options):
    """A run whose held-out bound gets worse after a while: a large step, and few cells, so that it overfits."""
    return quick(
        SCVI(latent=8, decoder=MLP(widths=64)),
        MeanField(encoder=ReadCell(dropout=0.0)),
        cells.subset(torch.arange(30)),
        **{"epochs": 120, "lr": 3e-2, "validation": 0.3, "batch_size": 8, **options},
    )


def test_the_best_state_is_kept_and_taken_up(cells):
    f = worsening(cells, early_stopping=Patience(5), warmup=0.05)
    bounds = f.history["elbo_held_out"]
    assert f.record["stopped_early"]
    assert len(f.history) < 120
    settled = bounds[f.history["epoch"] >= 0.05 * 120]
    assert f.record["best_epoch"] == f.history["epoch"][settled.idxmax()]
    assert f.record["best_epoch"] == len(f.history) - 5
    _, held_out = cells.subset(torch.arange(30)).split(0.3, by="batch", seed=0)
    assert evaluate(f.model, f.guide, held_out, 21, 0) == pytest.approx(settled.max(), abs=1e-9)


def test_nothing_stops_before_the_warm_up_has_ended(cells):
    f = worsening(cells, epochs=40, early_stopping=Patience(1), warmup=0.9)
    assert len(f.history) >= 36
    assert f.record["best_epoch"] >= 36
    assert f.record["kl_weight"] == 1


def test_without_early_stopping_the_last_state_counts(cells):
    f = worsening(cells, epochs=30, early_stopping=False)
    assert len(f.history) == 30
    assert f.record["best_epoch"] is None
    assert not f.record["stopped_early"]


def test_no_cells_to_hold_out_no_early_stopping(cells):
    f = quick(SCVI(latent=3), MeanField(), cells, validation=0.0)
    assert f.history["elbo_held_out"].isna().all()
    assert f.record["cells"] == {"train": 60, "held_out": 0}


def test_cells_are_held_out_of_every_batch(cells):
    from pyroscvi.fitting.fit import _split

    few_of_b = replace(cells, categories={"batch": (torch.arange(60) < 15).long()})
    for seed in range(5):
        train, held_out = _split(few_of_b, 0.2, seed=seed)
        assert held_out.batch.bincount().tolist() == [9, 3]
        assert train.batch.bincount().tolist() == [36, 12]
