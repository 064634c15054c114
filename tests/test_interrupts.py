"""Ctrl-C ends a fit between two steps, and the fit is returned as it is."""

import signal

import pytest
import torch
from fits import interrupted_after, quick, same

from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI


def test_an_interrupted_fit_is_a_fit(cells):
    steps = []

    def interrupt(model, guide, minibatch):
        steps.append(1)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return torch.zeros(len(minibatch))

    with pytest.warns(UserWarning, match="interrupted in epoch 3 of 50"):
        f = quick(SCVI(latent=3), MeanField(), cells, epochs=50, objectives=[interrupt])
    assert f.record["interrupted"]
    assert len(f.history) == 2
    assert f.latent(cells).shape == (60, 3)


class Deleted:
    """Presses Ctrl-C when it is deleted, where Python reports an exception and goes on."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def pressed_at(step, press):
    """An objective that calls ``press`` in this step, and notes the steps that it has seen to their end."""
    seen = []

    def objective(model, guide, minibatch):
        if len(seen) == step:
            press()
        seen.append(1)
        return torch.zeros(len(minibatch))

    objective.seen = seen
    return objective


@pytest.fixture
def ctrl_c():
    """Python's own handler, also if the tests run in the background, where a shell has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("press", [lambda: signal.raise_signal(signal.SIGINT), Deleted])
def test_ctrl_c_is_never_lost_and_leaves_no_half_of_a_step(press, cells):
    objective = pressed_at(7, press)
    with pytest.warns(UserWarning, match="interrupted in epoch 3 of 50"):
        f = quick(SCVI(latent=3), MeanField(), cells, epochs=50, average=0, objectives=[objective])
    assert f.record["interrupted"]
    assert len(objective.seen) == 8
    with pytest.warns(UserWarning, match="interrupted"):
        raised = quick(SCVI(latent=3), MeanField(), cells, epochs=50, average=0, objectives=[interrupted_after(7)])
    assert same(f, raised)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_pressed_twice_does_not_wait_for_the_step(cells):
    def press():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    objective = pressed_at(7, press)
    with pytest.warns(UserWarning, match="interrupted in epoch 3 of 50"):
        quick(SCVI(latent=3), MeanField(), cells, epochs=50, objectives=[objective])
    assert len(objective.seen) == 7


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_after_the_last_step_is_not_lost(cells):
    def press(fit):
        if fit.record["epochs"] == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.warns(UserWarning, match="interrupted in epoch 2 of 2"):
        f = quick(SCVI(latent=3), MeanField(), cells, epochs=2, observers=[press])
    assert (f.record["epochs"], f.record["interrupted"]) == (2, True)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_that_a_process_ignores_is_ignored(cells):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    press = pressed_at(7, lambda: signal.raise_signal(signal.SIGINT))
    assert not quick(SCVI(latent=3), MeanField(), cells, epochs=5, objectives=[press]).record["interrupted"]
