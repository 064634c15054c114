"""Work that is taken up again: a run under other settings or data, and a comparison whose evidences were altered."""

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pyroscvi as ps
from pyroscvi.fitting.resume import Folder
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, ZINB, LatentSize

from .damage import damaged
from .runner import Outcome, refusal, same

__all__ = ["altered_evidence", "other_runs"]


@dataclass
class Stopping(Folder):
    """A folder that interrupts the run after some checkpoints."""

    stop: int = 1

    def keep(self, run: Any) -> None:
        super().keep(run)
        self.stop -= 1
        if not self.stop:
            raise KeyboardInterrupt


@cache
def _cells(seed: int = 1, added: int = 0) -> ps.Cells:
    adata = ps.data.simulated(80, 12, seed=seed)
    adata.X = adata.X.toarray()
    adata.X[0, 0] += added
    return ps.Fields(batch="batch", covariates=("size",)).read(adata)


@cache
def _on_disk(first: int) -> ps.Cells:
    """Two files that differ in the order of two cells of equal totals."""
    adata = ps.data.simulated(80, 12, seed=1)
    counts = adata.X.toarray()
    counts[:2] = np.eye(2, 12) * 5 + 1
    counts[[0, 1]] = counts[[first, 1 - first]]
    adata.X = counts
    path = Path(tempfile.mkdtemp()) / "cells.h5ad"
    adata.write_h5ad(path)
    return ps.Fields(batch="batch").open(path)


# What is changed after the interruption: settings of fit, its model or guide, or its cells.
CHANGES: dict[str, Callable[[], dict[str, Any]]] = {
    "nothing": dict,
    "cells on disk": lambda: {"cells": _on_disk(1)},
    **{
        f"{name} {value}": lambda name=name, value=value: {name: value}
        for name, values in {
            "epochs": (2, 4),
            "validation": (0.0, 0.11, 0.12, 0.15, 0.2),
            "lr": (0.0031,),
            "batch_size": (31,),
            "clip": (1.0,),
            "warmup": (0.5,),
            "early_stopping": (False,),
            "seed": (1,),
            "scale_lr": (True,),
        }.items()
        for value in values
    },
    "latent": lambda: {"model": SCVI(latent=3)},
    "likelihood": lambda: {"model": SCVI(latent=2, likelihood=ZINB())},
    "size": lambda: {"model": SCVI(latent=2, size=LatentSize())},
    "guide": lambda: {"guide": FullCovariance()},
    "other cells": lambda: {"cells": _cells(2)},
    "a count": lambda: {"cells": _cells(added=1)},
    "cells in another order": lambda: {"cells": _cells().subset(np.arange(80)[::-1].copy())},
    "fewer cells": lambda: {"cells": _cells().subset(slice(79))},
    "levels": lambda: {"cells": _changed(levels={"batch": _cells().levels["batch"][::-1]})},
    "genes": lambda: {"cells": _changed(genes=_cells().genes[::-1])},
    "names of cells": lambda: {"cells": _changed(names=_cells().names[::-1].copy())},
    "a covariate": lambda: {"cells": replace(_cells(), covariates=-_cells().covariates)},
}


def _changed(**values: Any) -> ps.Cells:
    """Cells of other names, in their fields too."""
    fields = {name: value for name, value in values.items() if name != "names"}
    return replace(_cells(), fields=replace(_cells().fields, **fields), **values)


def _run(folder: Folder | None, model: Any = None, guide: Any = None, cells: Any = None, **settings: Any) -> ps.Fit:
    settings = {"epochs": 3, "batch_size": 32, "progress": False, **settings}
    return ps.fit(model or SCVI(latent=2), guide or MeanField(), cells or _cells(), folder=folder, **settings)


def other_runs(seed: int) -> Outcome:
    """A run that was interrupted or has finished, taken up under a change: refused, or as a run from the start."""
    what = list(CHANGES)[seed % len(CHANGES)]
    before = {"cells": _on_disk(0)} if what == "cells on disk" else {}
    after = CHANGES[what]()
    stop = int(np.random.default_rng(seed).integers(1, 12))  # the run has 9 steps
    with tempfile.TemporaryDirectory() as path:
        _run(Stopping(path, seconds=0.0, stop=stop), **before)
        try:
            resumed = _run(Folder(path, seconds=0.0), **after)
        except ValueError as error:
            outcome = refusal(error, what)
            return outcome if what != "nothing" else Outcome("refused wrongly", what, outcome.detail)
    straight = _run(None, **after)
    alike = same(resumed, straight) and resumed.fields == straight.fields
    return Outcome("right" if alike else "accepted wrongly", f"{what} after {stop} steps")


@cache
def _sweep() -> tuple[Path, Any, ps.Cells, Any]:
    """A sweep of two fits with kept evidences, and their comparison."""
    folder = Path(tempfile.mkdtemp())
    train, held_out = _cells().split(0.3, seed=0)
    declared = ps.grid(SCVI(latent=2), MeanField(), likelihood=[NB(), ZINB()])
    fits = ps.sweep(declared, train, folder=folder, epochs=1, progress=False)
    return folder, fits, held_out, ps.compare(fits, held_out, particles=5, progress=False)


def altered_evidence(seed: int) -> Outcome:
    """One evidence beside a fit of a sweep, changed: the comparison computes it again, and its numbers are the same."""
    folder, fits, held_out, before = _sweep()
    files = sorted(folder.glob("*/evidence/*.json"))
    path = files[seed % len(files)]
    original = path.read_bytes()
    what = damaged(path, np.random.default_rng(seed))
    if path.read_bytes() == original:
        return Outcome("impossible", what)
    try:
        with warnings.catch_warnings(record=True) as caught, torch.no_grad():
            warnings.simplefilter("always")
            now = ps.compare(fits, held_out, particles=5, progress=False)
        repaired = path.read_bytes() == original
    finally:
        path.write_bytes(original)
    named = any(str(path) in str(warning.message) for warning in caught)
    alike = now.table.equals(before.table) and now.by_cell.equals(before.by_cell)
    wrong = [] if alike else ["other numbers"]
    wrong += [] if repaired or not named else ["the file is not repaired"]
    return Outcome("accepted wrongly" if wrong else "right", what, "; ".join(wrong))
