"""A folder in which a run is written down as it goes, so that a run that was killed goes on where it was."""

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

__all__ = ["Folder", "digest", "digested", "identity"]


@dataclass
class Folder:
    """Where to write a run down, and how often.

    seconds   at least so many between two checkpoints; the end of a run is always written
    """

    path: Path | str
    seconds: float = 30.0
    identity: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def file(self) -> Path:
        return Path(self.path) / "run.safetensors"

    def open(self, run: Run, cells: Cells) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What ``run.restore`` goes on from, if anything; ValueError if what lies here is another run."""
        self.identity = identity(run, cells)
        self.written = time.monotonic()
        remove_partial(Path(self.path))
        if not exists(self.file):
            return None
        tensors, about = read(self.file)
        other = about["identity"]
        differing = [name for name in self.identity if other.get(name) != self.identity[name]]
        if differing:
            raise ValueError(f"{self.path} holds another run: {_told(differing, other, self.identity)}. "
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
    """What makes a run this run: settings, declarations, the parameters that it starts from, the cells."""
    return {
        **run.settings,
        "minibatch": run.size,
        "cells held out": 0 if run.held_out is None else len(run.held_out),
        "model": declaration(run.model),
        "guide": declaration(run.guide),
        "start": digested(*run.trained.state_dict().values()),
        "cells": digest(cells),
    }


def digest(cells: Cells) -> str:
    """A short text that is another for other cells."""
    rows = by_cell(lambda values: values, cells)
    values = {name: value for name, value in rows.items() if name not in ("index", "names", "categories")}
    return digested(*values.values(), *rows["categories"].values(), cells.graph, *(cells.genes or ()))


def digested(*values: Any) -> str:
    """A short text that is another for other tensors, arrays, sparse matrices, or things that print otherwise."""
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


def _told(names: list[str], there: dict[str, Any], here: dict[str, Any]) -> str:
    plain = [name for name in names if name not in ("model", "guide", "start", "cells")]
    told = [f"{name} was {there.get(name)!r} and is {here[name]!r}" for name in plain]
    return "; ".join(told + [f"the {name} differ{'s' * (name != 'cells')}" for name in names if name not in plain])
