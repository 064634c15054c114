"""Checkpoints of a run in a folder: a run that was interrupted or killed goes on from the last one."""

import hashlib
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.data.rows import by_cell
from pyroscvi.data.stored import Stored
from pyroscvi.fitting.checkpoints import exists, read, write
from pyroscvi.fitting.declarations import declaration
from pyroscvi.fitting.files import remove_partial
from pyroscvi.fitting.result import Fit
from pyroscvi.inference.run import Run


@dataclass
class Folder:
    """The folder of a run, and how often a checkpoint is written into it.

    seconds   least time between two checkpoints; the end of a run is always written
    """

    path: Path | str
    seconds: float = 30.0
    identity: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def file(self) -> Path:
        return Path(self.path) / "run.safetensors"

    def open(self, run: Run, cells: Cells) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint, for ``run.restore``, or None; ValueError if the folder holds another run."""
        self.identity = identity(run, cells)
        self.written = time.monotonic()
        remove_partial(Path(self.path))
        if not exists(self.file):
            return None
        tensors, about = read(self.file)
        other = about["identity"]
        differing = [name for name in self.identity if other.get(name) != self.identity[name]]
        if differing:
            raise ValueError(f"{self.path} holds another run: {_differences(differing, other, self.identity)}. "
                             "Ask for that one, or choose another folder")  # fmt: skip
        return tensors, about["values"]

    def keep(self, run: Run) -> None:
        """Write a checkpoint, if it is time for one."""
        if run.done or time.monotonic() - self.written >= self.seconds:
            tensors, values = run.state()
            with _warns("The fit goes on without a new checkpoint: free some space, and the next one is written"):
                write(self.file, tensors, {"identity": self.identity, "values": values})
            self.written = time.monotonic()

    def close(self, fit: Fit) -> None:
        """Write the fit."""
        with _warns("The fit is returned all the same: free some space and write it with fit.save(PATH)"):
            fit.save(Path(self.path) / "fit.safetensors")


@contextmanager
def _warns(remedy: str) -> Iterator[None]:
    """Warns where a file cannot be written: a full disk is no reason to lose a fit that is still in memory."""
    try:
        yield
    except OSError as error:
        warnings.warn(f"{error.filename} could not be written: {error.strerror}. {remedy}", stacklevel=5)


def identity(run: Run, cells: Cells) -> dict[str, Any]:
    """All that decides the result of a run: settings, declarations, first parameters, cells."""
    return {
        **run.settings, "minibatch": run.size, "cells held out": 0 if run.held_out is None else len(run.held_out),
        "model": declaration(run.model), "guide": declaration(run.guide),
        "start": digested(*run.trained.state_dict().values()), "cells": digest(cells),
    }  # fmt: skip


def digest(cells: Cells) -> str:
    """A hash of cells: their counts, conditions, graph, neighbours, predecessors and genes."""
    rows = by_cell(lambda values: values, cells)
    values = {name: value for name, value in rows.items() if name not in ("index", "names", "categories")}
    rest = [cells.graph, cells.before, *(cells.genes or ())]
    rest += [] if cells.panels is None else [cells.panels]
    rest += [] if cells.halo is None else [digest(cells.halo)]
    return digested(*values.values(), *rows["categories"].values(), *rest)


def digested(*values: Any) -> str:
    """A hash of tensors, arrays and sparse matrices by their contents, and of other values as they print."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        pieces = [value.data, value.indices, value.indptr] if sparse.issparse(value) else [value]
        if isinstance(value, Stored):  # every count entered the checksum when the file was opened
            pieces = [value.checksum, value.rows]
        for piece in pieces:
            if isinstance(piece, np.ndarray):
                digest.update(f"{piece.dtype}{piece.shape}".encode())
                digest.update(np.ascontiguousarray(piece).tobytes())
            else:
                digest.update(repr(piece).encode())
    return digest.hexdigest()


def _differences(names: list[str], earlier: dict[str, Any], asked: dict[str, Any]) -> str:
    """In words, how the run of a folder and the run that was asked for differ."""
    long = ("model", "guide", "start", "cells")
    settings = [f"{name} was {earlier.get(name)!r} and is {asked[name]!r}" for name in names if name not in long]
    return "; ".join(settings + [f"the {name} differ{'s' * (name != 'cells')}" for name in names if name in long])
