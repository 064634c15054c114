"""Run folders: a fit, with everything that says how it came about.

RUN/configuration.json   what was asked for
    cells.csv            every cell, and whether it was held out of the fit
    checkpoints/         what an interrupted fit goes on from
    fit.safetensors      the fit: ps.load(RUN) reads it
    history.csv, .png    the bound, epoch by epoch
    latents.h5ad         obs of every cell, and its posterior mean in obsm["X_pyroscvi"]
    page.py              the page, where it is a file of one's own
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from anndata import AnnData

from pyroscvi.cli.files import whole, write_json
from pyroscvi.data.cells import Cells
from pyroscvi.inference.checkpoints import load
from pyroscvi.inference.result import Fit
from pyroscvi.part import Part
from pyroscvi.report import plots

__all__ = ["KEY", "Run", "latents_of", "open_folder", "read_run", "write_run"]

KEY = "X_pyroscvi"
DONE = "latents.h5ad"  # written last


def open_folder(folder: Path, configuration: Mapping[str, Any], force: bool = False, done: str = DONE) -> None:
    """Make the folder of a run, or take up one that was interrupted and asked for the same.

    A finished run is not replaced unless forced, and a folder that is no run of ours never is.
    """
    plain = json.loads(json.dumps(configuration))
    asked = folder / "configuration.json"
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not asked.is_file():
            raise ValueError(f"{folder} holds something else already: choose another folder")
        if force:
            shutil.rmtree(folder)
        elif json.loads(asked.read_text("utf-8")) != plain:
            raise ValueError(f"{folder} holds another run already: choose another folder, or replace it with --force")
        elif (folder / done).exists():
            raise ValueError(f"{folder} holds this run already, finished: replace it with --force")
    write_json(asked, plain)


def write_run(folder: Path, fit: Fit, cells: Cells, obs: pd.DataFrame, held_out: Iterable[str] = ()) -> None:
    """Everything that a finished fit leaves; ``cells`` are all of them, ``obs`` is what is known about them."""
    fit.save(folder / "fit.safetensors")
    names = pd.Index(cells.names, name="cell")
    roles = pd.DataFrame({"held_out": names.isin(list(held_out))}, index=names)
    whole(folder / "cells.csv", roles.to_csv)
    whole(folder / "history.csv", lambda file: fit.history.to_csv(file, index=False))
    whole(folder / "history.png", plots.history({"held out": fit.history}).figure.savefig)
    whole(folder / DONE, latents_of(fit, cells, obs).write_h5ad)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def latents_of(fit: Fit, cells: Cells, obs: pd.DataFrame) -> AnnData:
    return AnnData(obs=obs.loc[list(cells.names)], obsm={KEY: fit.latent(cells)})


class Run(NamedTuple):
    """A finished run, read back."""

    folder: Path
    configuration: dict[str, Any]
    fit: Fit
    cells: pd.DataFrame  # index: names of cells; held_out

    @property
    def fitted_on(self) -> pd.Index:
        return self.cells.index[~self.cells["held_out"]]


def read_run(folder: Path, parts: Callable[[Path], Iterable[type[Part]]] = lambda folder: ()) -> Run:
    """The run in a folder; ``parts`` finds classes that it was declared with and that are not of this package."""
    if not (folder / "configuration.json").is_file():
        raise ValueError(f"{folder} is no run folder: `pyroscvi fit` writes them")
    if not (folder / "fit.safetensors").is_file():
        raise ValueError(
            f"{folder} holds an unfinished run: the `pyroscvi fit` that began it goes on from where it was"
        )
    configuration = json.loads((folder / "configuration.json").read_text("utf-8"))
    cells = pd.read_csv(folder / "cells.csv", index_col="cell", dtype={"cell": str})
    return Run(folder, configuration, load(folder, parts(folder)), cells)
