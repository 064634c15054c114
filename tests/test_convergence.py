"""Whether a fit had converged when its training ended, by its history."""

import numpy as np
import pandas as pd
import pytest
import torch
from fits import quick, same

from pyroscvi.comparison.sweep import sweep
from pyroscvi.data.cells import Cells
from pyroscvi.data.datasets import simulated
from pyroscvi.data.fields import Fields
from pyroscvi.fitting import fit as fitting
from pyroscvi.fitting.result import Fit
from pyroscvi.guides import MeanField
from pyroscvi.inference import run
from pyroscvi.inference.convergence import gain, has_converged
from pyroscvi.inference.run import evaluate
from pyroscvi.inference.schedules import Patience
from pyroscvi.models import SCVI
from pyroscvi.parts import MLP, NB, ReadCell
from pyroscvi.report import plots

EPOCHS = np.arange(100)


def falling(epochs, time):
    """Learning rates along half a cosine, and a bound that rises exponentially in their sum."""
    rate = (1 + np.cos(np.pi * np.arange(epochs) / epochs)) / 2
    return -500 - 50 * np.exp(-np.cumsum(rate) / time), rate


def test_a_bound_that_rises_by_a_straight_line():
    assert gain(-500 + 0.1 * EPOCHS) == pytest.approx(2.0)
    assert gain(-500 + 0.1 * EPOCHS[:50]) == pytest.approx(1.0)


def test_a_flat_end_at_a_small_rate_is_not_convergence():
    (short, short_rate), (long, long_rate) = falling(50, time=20), falling(200, time=20)
    assert short[-1] - short[-6] < 0.2  # the last tenth is flat
    assert has_converged(short) is True  # as if the rate had been high there
    assert has_converged(short, short_rate) is False
    assert has_converged(long, long_rate) is True


def test_a_bound_that_falls_again_has_converged():
    assert has_converged(-500 - 0.01 * (EPOCHS - 40.0) ** 2)


def test_noise_is_not_an_improvement():
    rng = np.random.default_rng(0)
    assert sum(has_converged(rng.normal(-500, 5, 100)) for _ in range(50)) >= 45


def test_it_cannot_be_known_without_a_history():
    assert has_converged([-1.0]) is None
    assert Fit(None, None, None, None, pd.DataFrame()).converged is None


def test_a_fit_that_stopped_early_has_converged():
    rising = pd.DataFrame({"elbo_train": 10.0 * EPOCHS, "elbo_held_out": 10.0 * EPOCHS})
    assert Fit(None, None, None, None, rising, {"stopped_early": False}).converged is False
    assert Fit(None, None, None, None, rising, {"stopped_early": True}).converged is True


def test_without_held_out_cells_the_training_bound_decides():
    history = pd.DataFrame({"elbo_train": 10.0 * EPOCHS, "elbo_held_out": np.nan})
    assert Fit(None, None, None, None, history).converged is False
    history["elbo_train"] = -500 + 0.1 * EPOCHS  # slowly: that may be overfitting
    assert Fit(None, None, None, None, history).converged is True
    history["elbo_held_out"] = -500.0
    assert Fit(None, None, None, None, history).converged is True


def test_two_real_fits_one_of_them_too_short():
    cells = Fields(counts="counts").read(simulated(cells=200, genes=300, seed=0))
    model, guide = SCVI(latent=2, decoder=MLP(8), likelihood=NB()), MeanField(encoder=ReadCell(widths=8))
    how = {"lr": 0.05, "batch_size": 90, "validation": 0.1}
    short, long = (quick(model, guide, cells, epochs=n, **how) for n in (20, 100))
    assert short.converged is False
    assert long.converged is True
    assert long.history["elbo_held_out"].iloc[-1] > short.history["elbo_held_out"].iloc[-1] + 1.5
    assert (short.history["lr"] > 0).all()


# Cells that a fit is judged by and not fitted to

SMALL = SCVI(latent=2, decoder=MLP(8), likelihood=NB()), MeanField(encoder=ReadCell(widths=8))


def test_cells_of_a_later_comparison_judge_a_fit_and_change_no_parameter(cells):
    train, held_out = cells.split(0.3, seed=0)
    alone = quick(*SMALL, train, validation=0, average=0)
    judged = quick(*SMALL, train, validation=held_out, average=0)
    assert same(alone, judged)
    assert judged.record["cells"] == {"train": len(train), "held_out": len(held_out)}
    expected = evaluate(judged.model, judged.guide, held_out, len(train), seed=0)
    assert judged.history["elbo_held_out"].iloc[-1] == pytest.approx(expected)


def test_epochs_of_few_steps_have_a_bound_now_and_then(cells, monkeypatch):
    """A bound costs as much as a step: there is one in so many steps, and from half of the run on after every epoch."""
    monkeypatch.setattr(run, "BOUNDS", 3)
    train, held_out = cells.split(0.3, seed=0)
    often = {"epochs": 10, "batch_size": 64}
    fit = quick(*SMALL, train, validation=held_out, **often)
    known = fit.history["elbo_train"].notna()
    assert fit.history["epoch"][known].tolist() == [3, 5, 6, 7, 8, 9, 10]
    assert (fit.history["elbo_held_out"].notna() == known).all()
    assert fit.history["loss"].notna().all()
    assert fit.converged is not None
    assert len(plots.history({"fit": fit.history}).lines[0].get_xdata()) == 7
    watched = quick(*SMALL, train, early_stopping=Patience(epochs=95), **often)
    assert watched.history["elbo_held_out"].notna().all()


def test_epochs_without_a_bound_do_not_change_the_verdict():
    """The time of the epochs between still counts, at their own rates."""
    rate = np.cos(np.linspace(0, np.pi / 2, 120))
    bound = np.linspace(-510, -500, 120)
    early = np.arange(120) < 60
    some = np.where(early & (np.arange(120) % 4 > 0), np.nan, bound)
    assert gain(some, rate) == gain(bound, rate) > 0


def test_many_cells_are_judged_by_some_of_them(cells, monkeypatch):
    train, held_out = cells.split(0.3, seed=0)
    monkeypatch.setattr(fitting, "MAX_JUDGED", 3)
    judged = quick(*SMALL, train, validation=held_out, average=0)
    three = held_out.subset(torch.tensor([0, 8, 17]))
    expected = evaluate(judged.model, judged.guide, three, len(train), seed=0)
    assert len(held_out) == 18
    assert judged.history["elbo_held_out"].iloc[-1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("wrong", "options", "why"),
    [
        (Cells(torch.ones(4, 12)), {"early_stopping": True}, "early stopping would choose the state that suits these"),
        (Cells(torch.ones(4, 11)), {}, "validation has 4 cells of 11 genes: it takes cells with the 12 genes"),
        (Cells(torch.ones(0, 12)), {}, "validation has 0 cells"),
    ],
)
def test_cells_that_cannot_judge_are_refused(wrong, options, why, cells):
    with pytest.raises(ValueError, match=why):
        quick(*SMALL, cells, validation=wrong, **options)


def test_a_sweep_that_is_judged_finds_the_fits_of_one_that_is_not(cells, tmp_path):
    train, held_out = cells.split(0.3, seed=0)
    how = {"folder": tmp_path, "seeds": 1, "epochs": 2, "progress": False}
    judged = sweep({"nb": SMALL}, train, validation=held_out, **how)
    again = sweep({"nb": SMALL}, train, **how)
    assert judged["nb"].history["elbo_held_out"].notna().all()
    assert len(list(tmp_path.iterdir())) == 1
    assert same(judged["nb"], again["nb"])
