"""Whether a fit had converged when its training ended."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from fits import interrupted_after, quick, same

from pyroscvi.comparison.sweep import sweep
from pyroscvi.data.cells import Cells
from pyroscvi.data.datasets import simulated
from pyroscvi.data.fields import Fields
from pyroscvi.fitting import fit as fitting
from pyroscvi.fitting.result import Fit
from pyroscvi.fitting.resume import Folder
from pyroscvi.guides import MeanField
from pyroscvi.inference import run
from pyroscvi.inference.convergence import MeanBounds, has_converged
from pyroscvi.inference.evaluation import evaluate
from pyroscvi.inference.schedules import Patience
from pyroscvi.models import SCVI
from pyroscvi.parts import MLP, NB, ReadCell
from pyroscvi.report import plots


def scattering(optimum):
    """Bounds of a parameter that scatters around an optimum, less and less: of all its states, and of their means."""
    rng, steps = np.random.default_rng(0), 1_000
    rate = (1 + np.cos(np.pi * np.arange(1, steps + 1) / steps)) / 2
    after = optimum(np.arange(1, steps + 1) / steps) + 5 * rate * rng.normal(size=steps)
    means = MeanBounds(steps)
    for step, x in enumerate(after, start=1):
        means.add(step, lambda x=x: {"x": torch.tensor(x)}, lambda state: [-(float(state["x"]) ** 2), math.nan])
    return -(after**2), means.by_name()


def test_a_bound_that_rises_because_steps_become_small_has_converged():
    after, means = scattering(lambda share: 0 * share)
    assert after[-100:].mean() > after[500:600].mean() + 3
    assert has_converged({"elbo_held_out": means["elbo_train"]}) is True


def test_a_parameter_that_has_not_arrived_has_not_converged():
    _, means = scattering(lambda share: 10 * (1 - share))
    early, late = means["elbo_train"]
    assert late > early + 8
    assert has_converged({"elbo_held_out": [early, late]}) is False


@pytest.mark.parametrize(("steps", "known"), [(1, False), (4, False), (7, True), (63, True), (64, True), (1001, True)])
def test_each_part_of_a_run_has_its_states(steps, known):
    means, seen = MeanBounds(steps), []
    for step in range(1, steps + 1):
        means.add(step, lambda step=step: seen.append(step) or {"x": torch.zeros(())}, lambda _: [0.0, 0.0])
    assert bool(means.by_name()) is known
    assert all(steps / 2 < step < steps * 5 / 8 + 1 or step > steps * 7 / 8 for step in seen)
    assert seen[-1] == steps
    assert len(seen) == len({*seen}) <= 16


def test_it_cannot_be_known_without_bounds():
    assert has_converged({}) is None
    assert Fit(None, None, None, None, pd.DataFrame()).converged is None


def of(**record):
    return Fit(None, None, None, None, pd.DataFrame(), record)


def test_a_fit_that_stopped_early_has_converged_and_one_that_was_interrupted_has_not():
    rising = {"elbo_held_out": [-510.0, -500.0]}
    assert of(stopped_early=False, mean_bounds=rising).converged is False
    assert of(stopped_early=True, mean_bounds=rising).converged is True
    assert of(stopped_early=False, interrupted=True, mean_bounds={}).converged is False


def test_without_held_out_cells_the_training_bound_decides():
    assert of(mean_bounds={"elbo_train": [-530.0, -500.0]}).converged is False
    assert of(mean_bounds={"elbo_train": [-505.0, -500.0]}).converged is True  # that may be overfitting
    assert of(mean_bounds={"elbo_train": [-530.0, -500.0], "elbo_held_out": [-550.0, -550.0]}).converged is True


@pytest.mark.parametrize("steps", [5, 14, 15, 17, 22, 23])
def test_an_interrupted_fit_that_is_resumed_has_the_same_mean_bounds(steps, cells, tmp_path):
    """Of 24 steps: the parts are those after steps 12 to 15, and 21 to 24."""
    train, held_out = cells.split(0.3, seed=0)
    how = {"epochs": 8, "batch_size": 16, "validation": held_out, "average": 0.5}
    straight = quick(*SMALL, train, objectives=[interrupted_after(99)], **how)
    folder = Folder(tmp_path, seconds=0.0)
    with pytest.warns(UserWarning, match="interrupted"):
        quick(*SMALL, train, objectives=[interrupted_after(steps)], folder=folder, **how)
    resumed = quick(*SMALL, train, objectives=[interrupted_after(99)], folder=folder, **how)
    assert same(straight, resumed)
    assert straight.record["mean_bounds"].keys() == {"elbo_train", "elbo_held_out"}
    assert straight.record["mean_bounds"] == resumed.record["mean_bounds"]


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
    """A bound costs as much as a step: there is one in so many steps, and one at the end."""
    monkeypatch.setattr(run, "BOUNDS", 3)
    train, held_out = cells.split(0.3, seed=0)
    often = {"epochs": 10, "batch_size": 64}
    fit = quick(*SMALL, train, validation=held_out, **often)
    known = fit.history["elbo_train"].notna()
    assert fit.history["epoch"][known].tolist() == [3, 6, 9, 10]
    assert (fit.history["elbo_held_out"].notna() == known).all()
    assert fit.history["loss"].notna().all()
    assert fit.converged is not None
    assert len(plots.history({"fit": fit.history}).lines[0].get_xdata()) == 4
    watched = quick(*SMALL, train, early_stopping=Patience(epochs=95), **often)
    assert watched.history["elbo_held_out"].notna().all()


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
