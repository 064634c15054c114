"""One thread at a time runs a model, and whatever happens the global state of Pyro and torch is restored."""

import threading

import pyro
import pytest
import torch
from fits import quick, same
from pyro.poutine import runtime
from pyro.poutine.messenger import Messenger

import pyroscvi as ps
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, Mixture
from pyroscvi.program import Guide, Program
from pyroscvi.pyro_internals import HANDLERS, PLATES, alone


def fitted(cells, **options):
    return quick(SCVI(latent=2, prior=Mixture(components=2), likelihood=NB()), MeanField(), cells, **options)


class Meanwhile(SCVI):
    """A page that has another thread do something in the middle of its own run."""

    def model(self, cells):
        if TASKS:
            thread = threading.Thread(target=TASKS.pop())
            thread.start()
            thread.join(0.3)  # the thread waits for this model to end, or else it would be done by now
            STARTED.append((thread, thread.is_alive()))
        super().model(cells)


TASKS, STARTED = [], []


@pytest.mark.parametrize("task", [lambda cells, fit: fitted(cells), lambda cells, fit: fit.latent(cells)])
def test_a_second_thread_waits_for_the_first(task, cells):
    fit, results = fitted(cells), []
    expected = task(cells, fit)
    apart = quick(Meanwhile(latent=2), MeanField(), cells)
    STARTED.clear()
    TASKS.append(lambda: results.append(task(cells, fit)))
    disturbed = quick(Meanwhile(latent=2), MeanField(), cells)
    (thread, waited), *_ = STARTED
    thread.join()
    assert waited
    assert same(disturbed, apart)
    assert same(results[0], expected) if isinstance(expected, ps.Fit) else (results[0] == expected).all()


def interrupt_once(method, when):
    """``method``, but once it is interrupted before it does its work, after so many calls that are ``when``."""
    left = [5]

    def interrupted(self, *arguments):
        left[0] -= when(self)
        if when(self) and left[0] == 0:
            raise KeyboardInterrupt
        return method(self, *arguments)

    return interrupted


@pytest.mark.parametrize(
    ("owner", "name", "when"),
    [
        (Messenger, "__exit__", lambda handler: [handler] == HANDLERS),
        (type(runtime._DIM_ALLOCATOR), "free", lambda _: True),
    ],
    ids=["leaving a handler", "closing a plate"],
)
def test_ctrl_c_inside_pyro_leaves_nothing_behind(owner, name, when, cells, monkeypatch):
    reference, generator = fitted(cells), torch.get_rng_state()
    monkeypatch.setattr(owner, name, interrupt_once(getattr(owner, name), when))
    with pytest.warns(UserWarning, match="interrupted"):
        fitted(cells)
    monkeypatch.undo()
    assert HANDLERS == []
    assert PLATES == []
    assert torch.equal(torch.get_rng_state(), generator)
    assert same(fitted(cells), reference)


def test_everything_is_restored_after_an_error():
    @alone
    def fails():
        pyro.plate("cells", 3).__enter__()
        pyro.poutine.block().__enter__()
        pyro.enable_validation(False)
        torch.set_grad_enabled(False)
        torch.manual_seed(11)
        raise RuntimeError

    generator = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        fails()
    assert HANDLERS == []
    assert PLATES == []
    assert torch.is_grad_enabled()
    assert torch.distributions.Distribution._validate_args
    assert pyro.poutine.util.is_validation_enabled()
    assert torch.equal(torch.get_rng_state(), generator)
    with pyro.plate("cells", 3), pyro.poutine.block() as mine:
        alone(lambda: None)()
        assert HANDLERS[-1] is mine


class Lock:
    """In place of the real lock: it knows whether it is held."""

    held = 0

    def __enter__(self):
        self.held += 1

    def __exit__(self, *_):
        self.held -= 1


class ModelRuns(Exception):
    """A model or a guide was run."""


METHODS = {
    **dict.fromkeys(("calibrate", "certify", "data_evidence", "denoise", "describe", "generate", "latent"), ()),
    **dict.fromkeys(("log_evidence", "predictive_check", "to_arviz"), ()),
    "probabilities": ("k",),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_that_runs_a_model_holds_the_lock(name, cells, monkeypatch):
    fit, lock = fitted(cells), Lock()

    def reached(*_, **__):
        raise ModelRuns(lock.held)

    monkeypatch.setattr("pyroscvi.pyro_internals.LOCK", lock)
    monkeypatch.setattr(Program, "__call__", reached)
    monkeypatch.setattr(Guide, "posteriors", reached)
    with pytest.raises(ModelRuns) as error:
        getattr(fit, name)(cells, *METHODS[name])
    assert error.value.args[0] > 0
    assert lock.held == 0
