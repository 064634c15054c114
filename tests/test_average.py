"""The parameters of a fit are averaged over the end of its run."""

import pytest
import torch
from fits import interrupted_after, quick, same, state

from pyroscvi.fitting.resume import Folder
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.inference.average import Average
from pyroscvi.inference.run import Run
from pyroscvi.inference.schedules import Patience
from pyroscvi.models import SCVI
from pyroscvi.parts import MLP, BatchNorm

MODEL, HOW = SCVI(latent=2, decoder=MLP(8, norm=BatchNorm())), {"epochs": 5, "lr": 0.05}


@pytest.fixture
def states(monkeypatch):
    """The state after every epoch."""
    copies, end = [], Run._end

    def kept(run, seconds):
        copies.append({name: t.detach().clone() for name, t in run.trained.state_dict().items()})
        end(run, seconds)

    monkeypatch.setattr(Run, "_end", kept)
    return copies


def test_the_mean_is_that_of_all_states_and_integers_are_the_last_ones():
    average = Average()
    values = torch.randn(4, 3)
    for n, value in enumerate(values):
        average.add({"weight": value, "steps": torch.tensor(n)})
    assert torch.allclose(average.state["weight"], values.mean(0))
    assert average.state["steps"] == 3


def test_a_fit_has_the_mean_of_the_second_half_of_its_epochs(cells, states):
    fitted = state(quick(MODEL, FullCovariance(), cells, **HOW))
    assert len(states) == 5
    assert {t.is_floating_point() for t in fitted.values()} == {True, False}
    for name, t in fitted.items():
        last = torch.stack([of_epoch[name] for of_epoch in states[2:]])
        expected = last.mean(0) if t.is_floating_point() else last[-1]
        torch.testing.assert_close(t, expected)


@pytest.mark.parametrize("how", [{"average": 0}, {"early_stopping": Patience(100), "validation": 0.3}])
def test_without_an_average_one_state_is_kept(how, cells, states):
    fit = quick(MODEL, MeanField(), cells, **HOW, **how)
    kept = states[(fit.record["best_epoch"] or 0) - 1]
    assert all(torch.equal(t, kept[name]) for name, t in state(fit).items())


def test_a_run_that_is_resumed_within_its_last_half_has_the_same_average(cells, tmp_path):
    straight = quick(MODEL, MeanField(), cells, objectives=[interrupted_after(10**6)], **HOW)
    folder = Folder(tmp_path, seconds=0.0)
    with pytest.warns(UserWarning, match="interrupted in epoch 5"):
        quick(MODEL, MeanField(), cells, objectives=[interrupted_after(13)], folder=folder, **HOW)
    resumed = quick(MODEL, MeanField(), cells, objectives=[interrupted_after(10**6)], folder=folder, **HOW)
    assert same(straight, resumed)


def test_a_fraction_above_one_is_refused(cells):
    with pytest.raises(ValueError, match=r"average is the fraction .* not 1.5"):
        quick(MODEL, MeanField(), cells, average=1.5)
