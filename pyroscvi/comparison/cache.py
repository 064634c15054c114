"""Evidences that are cached beside the fit they belong to, and found again by their content.

FOLDER/evidence/<hash>.json     one table, with the settings it was computed with, and a checksum

The hash is of everything that the numbers depend on: parameters and declarations of the fit, cells and their random
numbers, settings, and this version. What they do not depend on (memory, minibatches, a compiler) is left out. So a
comparison that was interrupted, or has one more fit, uses the evidences that are cached.
"""

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from pyro.poutine.runtime import am_i_wrapped

from pyroscvi import __version__
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.certificate import Certificate
from pyroscvi.evidence.reader import pair
from pyroscvi.evidence.table import Evidences
from pyroscvi.fitting.declarations import declaration
from pyroscvi.fitting.files import DamagedFile, read_json, write_json
from pyroscvi.fitting.resume import digest, digested
from pyroscvi.program import Fitted, Pair


def cached(
    folder: Path | None, fit: Fitted | Pair, cells: Cells, settings: Mapping[str, Any], compute: Callable[[], Evidences]
) -> Evidences:
    """The evidences that ``compute`` returns, or those that are cached in the folder.

    settings   everything else that the numbers depend on, by name

    Nothing is cached without a folder, nor under a handler of Pyro, which may change the model. A cached file that was
    altered is computed again, with a warning that names it.
    """
    if folder is None or am_i_wrapped():
        return compute()
    file = folder / "evidence" / f"{_content(fit, cells, settings)}.json"
    evidences = _read(file)
    if evidences is None:
        evidences = compute()
        _write(file, evidences)
    return evidences


def _content(fit: Fitted | Pair, cells: Cells, settings: Mapping[str, Any]) -> str:
    model, guide = pair(fit)
    described = [declaration(model), declaration(guide), digest(cells), cells.levels, sorted(settings.items())]
    tensors = [*model.state_dict().values(), *guide.state_dict().values()]
    names = () if cells.names is None else tuple(cells.names)
    content = digested(__version__, *described, *tensors, cells.index, *names)
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def _read(file: Path) -> Evidences | None:
    """Evidences as they were written, digit for digit; None if there are none, or the file was altered."""
    try:
        content = read_json(file)
    except FileNotFoundError:
        return None
    except (OSError, DamagedFile) as error:
        warnings.warn(f"{error}: this evidence is computed again", stacklevel=4)
        return None
    table = pd.DataFrame(content["columns"], index=pd.Index(content["cells"], name=content["index"]))
    return Evidences(table, content["certificate"] and Certificate(**content["certificate"]))


def _write(file: Path, evidences: Evidences) -> None:
    table, certificate = evidences
    content: dict[str, Any] = {"index": table.index.name, "cells": table.index.tolist()}
    content["columns"] = {name: table[name].tolist() for name in table}
    content["certificate"] = None if certificate is None else asdict(certificate)
    try:
        write_json(file, content)
    except OSError as error:  # the comparison goes on without it
        warnings.warn(f"{file} could not be written ({error}): the evidence is not cached", stacklevel=4)
