"""Evidences that are kept beside the fit they are of, and found again by their content.

FOLDER/evidence/<hash>.json     one table: the cells it is of, the settings it was made with

The hash is of everything that enters a number: parameters and declarations of the fit, cells and their random numbers,
settings, this version. What cannot enter it (memory, minibatches, a compiler) is left out, so that a comparison that
was interrupted, or has one fit more, takes up what is there.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from pyro.poutine.runtime import am_i_wrapped

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.reader import pair
from pyroscvi.fitting.declarations import declaration
from pyroscvi.fitting.resume import digest, digested

__all__ = ["kept"]


def kept(
    folder: Path | None, fit: Any, cells: Cells, settings: Mapping[str, Any], make: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    """The table that ``make`` gives, or that it gave when it was last asked for this.

    settings   whatever else enters the numbers, which prints as what it is

    Without a folder nothing is kept; nor under a handler of Pyro, which may make another model of the fit's.
    """
    if folder is None or am_i_wrapped():
        return make()
    file = folder / "evidence" / f"{_content(fit, cells, settings)}.json"
    found = _read(file)
    if found is None:
        found = make()
        _write(file, found)
    return found


def _content(fit: Any, cells: Cells, settings: Mapping[str, Any]) -> str:
    model, guide = pair(fit)
    told = [declaration(model), declaration(guide), digest(cells), cells.levels, sorted(settings.items())]
    tensors = [*model.state_dict().values(), *guide.state_dict().values()]
    whole = digested(version("pyroscvi"), *told, *tensors, cells.index, *([] if cells.names is None else cells.names))
    return hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()


def _read(file: Path) -> pd.DataFrame | None:
    """A table as it was written, digit for digit; None if there is none, or something else."""
    try:
        told = json.loads(file.read_text("utf-8"))
        table = pd.DataFrame(told["columns"], index=pd.Index(told["cells"], name=told["index"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    table.attrs = told["attrs"]
    return table


def _write(file: Path, table: pd.DataFrame) -> None:
    told = {"index": table.index.name, "cells": table.index.tolist(), "attrs": table.attrs}
    told["columns"] = {name: table[name].tolist() for name in table}
    beside = file.with_suffix(".partial")
    try:
        file.parent.mkdir(exist_ok=True)
        beside.write_text(json.dumps(told), "utf-8")
        os.replace(beside, file)
    except OSError as error:  # a number that cannot be kept is still a number
        warnings.warn(f"{file} could not be written ({error}): the evidence is not kept", stacklevel=4)
