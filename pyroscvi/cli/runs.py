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
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from anndata import AnnData

from pyroscvi.cli.declare import own_parts
from pyroscvi.cli.files import draw
from pyroscvi.data.cells import Cells
from pyroscvi.fitting.checkpoints import load
from pyroscvi.fitting.files import read_json, write_json, write_whole
from pyroscvi.fitting.fit import fit
from pyroscvi.fitting.result import Fit
from pyroscvi.fitting.resume import Folder
from pyroscvi.program import Guide, Model
from pyroscvi.report import plots

__all__ = ["KEY", "Run", "carry_out", "latents_of", "open_folder", "read_run", "write_run"]

KEY = "X_pyroscvi"
DONE = "latents.h5ad"  # written last
SECONDS = 5.0  # between checkpoints, and so the most that an interrupted run loses


def open_folder(folder: Path, configuration: Mapping[str, Any], force: bool = False, done: str | None = DONE) -> None:
    """Make the folder of a run, or take up one that was interrupted and asked for the same.

    A run that is finished (the file ``done`` is there) is not replaced unless forced; a folder that is no run never is.
    """
    plain = json.loads(json.dumps(configuration))
    asked = folder / "configuration.json"
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    held = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    if held and asked.name not in held:
        raise ValueError(f"{folder} holds something else already: choose another folder")
    if held and force:
        shutil.rmtree(folder)
    elif held > {asked.name}:  # a run that came to nothing leaves what was asked for, and is in nobody's way
        if read_json(asked) != plain:
            raise ValueError(f"{folder} holds another run already: choose another folder, or replace it with --force")
        if done in held:
            raise ValueError(f"{folder} holds this run already, finished: replace it with --force")
    write_json(asked, plain)


class Interrupted(Exception):
    exit_code = 130  # what a shell calls Ctrl-C


def carry_out(folder: Path, model: Model, guide: Guide, seen: Cells, **training: Any) -> Fit:
    """``fit``, from the last checkpoint in the folder if there is one; ``Interrupted`` if it was."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "interrupted in epoch")  # said by the error, which goes on to the shell
        found = fit(model, guide, seen, folder=Folder(folder / "checkpoints", SECONDS), **training)
    if found.record["interrupted"]:
        raise Interrupted("interrupted: the same command goes on from here")
    return found


def write_run(folder: Path, found: Fit, cells: Cells, obs: pd.DataFrame, unseen: Cells | None = None) -> None:
    """Everything that a finished fit leaves; ``cells`` are all there are, those it has not seen among them."""
    found.save(folder / "fit.safetensors")
    names = _names(cells)
    roles = pd.DataFrame({"held_out": names.isin([] if unseen is None else _names(unseen))}, index=names)
    write_whole(folder / "cells.csv", roles.to_csv)
    write_whole(folder / "history.csv", lambda file: found.history.to_csv(file, index=False))
    draw(folder / "history.png", plots.history({"held out": found.history}))
    write_whole(folder / DONE, latents_of(found, cells, obs).write_h5ad)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def latents_of(found: Fit, cells: Cells, obs: pd.DataFrame) -> AnnData:
    return AnnData(obs=obs.loc[_names(cells)], obsm={KEY: found.latent(cells)})


def _names(cells: Cells) -> pd.Index:
    return pd.Index([str(n) for n in range(len(cells))] if cells.names is None else cells.names, name="cell")


class Run(NamedTuple):
    """A finished run, read back."""

    folder: Path
    configuration: dict[str, Any]
    fit: Fit
    cells: pd.DataFrame  # index: names of cells; held_out

    @property
    def fitted_on(self) -> pd.Index:
        return self.cells.index[~self.cells["held_out"]]


def read_run(folder: Path, pages: Iterable[Path] = ()) -> Run:
    """The run in a folder. A page of one's own is run as code, and so only when its file is named."""
    if not (folder / "configuration.json").is_file():
        raise ValueError(f"{folder} is no run folder: `pyroscvi fit` writes them")
    if not (folder / DONE).is_file():
        raise ValueError(f"{folder} holds an unfinished run: the command that began it goes on from where it was")
    configuration = read_json(folder / "configuration.json")
    if missing := set(configuration.get("pages", ())) - {page.name for page in pages}:
        raise ValueError(f"{folder} was fitted with {sorted(missing)[0]}, a page of your own: add --page FILE.py")
    cells = pd.read_csv(folder / "cells.csv", index_col="cell", dtype={"cell": str})
    return Run(folder, configuration, load(folder, own_parts(pages)), cells)
