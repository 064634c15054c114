"""Kills, interrupts, a full disk, other threads: a fit goes on to the same bits, and later fits are as before."""

import contextlib
import io
import os
import signal
import subprocess
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.poutine.runtime import _PYRO_STACK

import pyroscvi as ps
from pyroscvi.cli import main
from pyroscvi.cli.runs import read_run
from pyroscvi.fitting.resume import Folder
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import Mixture

from .runner import Outcome, isolated, same

__all__ = ["full_disks", "interrupted_commands", "interrupts", "kills", "threads"]


@cache
def _cells() -> ps.Cells:
    return ps.Fields(batch="batch").read(ps.data.simulated(120, 20, seed=1))


def _fit(epochs: int = 4, folder: Any = None) -> Any:
    page = SCVI(latent=2, prior=Mixture(components=2))
    return ps.fit(page, MeanField(), _cells(), epochs=epochs, batch_size=32, progress=False, folder=folder)


@cache
def _undisturbed() -> tuple[Any, float]:
    """The fit that nothing disturbed, and how long it took."""
    _fit()
    start = time.monotonic()
    return _fit(), time.monotonic() - start


def kills(seed: int) -> Outcome:
    """kill -9 at a random time of a fit with checkpoints; the next call gives the same bits."""
    rng = np.random.default_rng(seed)
    whole, seconds = _undisturbed()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            child = os.fork()
            if not child:
                _fit(folder=Folder(folder, seconds=0.0))
                os._exit(0)
            time.sleep(rng.uniform(0.0, 1.5 * seconds))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        finished = _fit(folder=Folder(folder, seconds=0.0))
        left = [path.name for path in Path(folder).iterdir() if "partial" in path.name or path.name.startswith(".tmp")]
    if left:
        return Outcome("accepted wrongly", "kill", f"left behind: {left}")
    return Outcome("right" if same(whole, finished) else "accepted wrongly", "kill", "")


def _press(*_: Any) -> None:
    """Ctrl-C, when the alarm rings; the next alarm ends an attack in which it was lost."""
    _limit()
    signal.raise_signal(signal.SIGINT)


def _limit() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)


def interrupts(seed: int) -> Outcome:
    """Ctrl-C at a random time of a fit, of an estimate and of a prediction; the next fit gives the same bits."""
    whole, seconds = _undisturbed()
    calls = {
        "fit": lambda: _fit(10_000),
        "log_evidence": lambda: whole.log_evidence(_cells(), particles=2000, progress=False),
        "denoise": lambda: [whole.denoise(_cells()) for _ in range(100)],
    }
    what = list(calls)[seed % len(calls)]
    after = float(np.random.default_rng(seed).uniform(0.02, seconds))

    def attack() -> Outcome:
        generator = torch.get_rng_state()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
        signal.signal(signal.SIGALRM, _press)
        with contextlib.suppress(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, after)
            calls[what]()
        _limit()
        wrong = _traces(generator)
        return Outcome("accepted wrongly" if wrong else "right", what, "; ".join(wrong))

    return isolated(attack, what)


def _traces(generator: torch.Tensor) -> list[str]:
    """What an attack has left behind in this process."""
    checks = {
        "a handler is left on Pyro's stack": not len(_PYRO_STACK),
        "gradients are off": torch.is_grad_enabled(),
        "torch's global generator has moved": torch.equal(generator, torch.get_rng_state()),
        "the next fit is another one": same(_undisturbed()[0], _fit()),
    }
    return [wrong for wrong, right in checks.items() if not right]


OPTIONS = ("--batch", "batch", "--latent", "2", "--epochs", "4", "--batch-size", "32")


@cache
def _command() -> tuple[list[str], Any, float]:
    """A command, the fit that it writes, and how long it takes."""
    folder = tempfile.mkdtemp()
    ps.data.simulated(120, 20, seed=1).write_h5ad(f"{folder}/cells.h5ad")
    command = ["fit", f"{folder}/cells.h5ad", *OPTIONS, "--out"]
    main([*command, f"{folder}/first"])
    start = time.monotonic()
    main([*command, f"{folder}/second"])
    return command, read_run(Path(folder) / "second").fit, time.monotonic() - start


def interrupted_commands(seed: int) -> Outcome:
    """Ctrl-C at a random time of ``pyroscvi fit``: one line says so, and the same command then gives the same bits."""
    command, whole, seconds = _command()
    after = float(np.random.default_rng(seed).uniform(0.01, seconds))

    def attack() -> Outcome:
        errors = io.StringIO()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(errors):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGALRM, _press)
            signal.setitimer(signal.ITIMER_REAL, after)
            status = main([*command, f"{folder}/run"])
            _limit()
            last = errors.getvalue().strip().rpartition("\n")[2]
            again = main([*command, f"{folder}/run"]) if status else 0
            alike = not again and same(whole, read_run(Path(folder) / "run").fit)
        right = alike and (status == 0 or (status == 130 and last.startswith("pyroscvi: interrupted")))
        return Outcome(
            "right" if right else "accepted wrongly", f"status {status}, then {again}", errors.getvalue()[-300:]
        )

    return isolated(attack, "pyroscvi fit")


def threads(seed: int) -> Outcome:
    """Two threads that fit and estimate at once: each is right, or refused in words; the next fit is right."""
    whole, _ = _undisturbed()
    estimate = whole.log_evidence(_cells(), particles=20, progress=False)
    calls = {
        "fit": (_fit, lambda fitted: same(whole, fitted)),
        "latent": (lambda: whole.latent(_cells()), lambda z: np.array_equal(z, whole.latent(_cells()))),
        "evidence": (
            lambda: whole.log_evidence(_cells(), particles=20, progress=False),
            lambda values: np.array_equal(values, estimate),
        ),
    }
    pairs = [("fit", "fit"), ("fit", "evidence"), ("fit", "latent"), ("evidence", "evidence")]
    pair = pairs[seed % len(pairs)]

    def attack() -> Outcome:
        results: list[Any] = [None, None]

        def work(which: int) -> None:
            try:
                results[which] = calls[pair[which]][0]()
            except Exception as error:
                results[which] = error

        generator = torch.get_rng_state()
        workers = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        wrong = _traces(generator)
        for name, value in zip(pair, results, strict=True):
            refused = isinstance(value, RuntimeError) and "thread" in str(value)
            if not refused and (isinstance(value, Exception) or not calls[name][1](value)):
                wrong.append(f"{name} gave {value!r}"[:200])
        return Outcome("accepted wrongly" if wrong else "right", " | ".join(pair), "; ".join(wrong))

    return isolated(attack, " | ".join(pair))


def full_disks(seed: int) -> Outcome:
    """A disk that is full after some checkpoints: the fit is the same as without checkpoints. Needs root, for mount."""
    size = ("1m", "64k", "128k", "256k")[seed % 4]
    whole, _ = _undisturbed()
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        if subprocess.run(mount, capture_output=True).returncode:
            return Outcome("impossible", size, "no disk can be mounted here")
        try:
            fitted = _fit(folder=Folder(folder, seconds=0.0))
        finally:
            subprocess.run(["umount", folder], check=True)
    return Outcome("right" if same(whole, fitted) else "accepted wrongly", size)
