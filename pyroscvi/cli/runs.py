"""Run folders: a fit, and how it was made.

RUN/configuration.json   what was asked for; by its checksum the folder is known to be a run
    cells.csv            every cell, and whether it was held out of the fit
    genes.txt            the genes that were fitted: ``--genes RUN/genes.txt`` uses them again
    checkpoints/         from which an interrupted fit goes on
    fit.safetensors      the fit: ps.load(RUN) reads it
    history.csv, .png    the ELBO of every epoch
    kept/, events/       fits that were kept after some epochs, and event files for TensorBoard, where asked for
    latents.h5ad         obs of every cell, and its posterior mean in obsm["X_pyroscvi"]
    run.json             the fit in words that a program can read: declarations, fields, levels, genes, versions, seed
    page.py              the page, where it is a file of your own
    checksums.json       the checksums of all of them, written last
"""

import json
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from pyroscvi.analysis.representation import KEY, representation
from pyroscvi.cli.declare import own_parts
from pyroscvi.cli.output import draw
from pyroscvi.data.cells import Cells
from pyroscvi.data.fields import Fields
from pyroscvi.data.genes import unnumbered
from pyroscvi.fitting import files
from pyroscvi.fitting.checkpoints import load
from pyroscvi.fitting.files import CHECKSUMS, DamagedFile
from pyroscvi.fitting.fit import fit
from pyroscvi.fitting.result import Fit
from pyroscvi.fitting.resume import Folder
from pyroscvi.program import Guide, Model
from pyroscvi.report import plots

CONFIGURATION = "configuration.json"
DONE = CHECKSUMS  # written last: a folder that has it holds a finished run
FILES = ("cells.csv", "fit.safetensors", "genes.txt", "history.csv", "history.png", "latents.h5ad", "run.json")
FORCED = {  # what --force removes of a run, or of the fit of a sweep, where it is as it was written
    *FILES, CONFIGURATION, CHECKSUMS, "fit.safetensors.previous", "declaration.json"
}  # fmt: skip
SECONDS = 5.0  # between checkpoints: an interrupted run loses no more


def open_folder(folder: Path, configuration: Mapping[str, Any], force: bool = False, done: str | None = DONE) -> None:
    """Make the folder of a run, or take up a run that was interrupted and has the same configuration."""
    replaced = check_folder(folder, configuration, force, done)
    for file in replaced:
        file.unlink()
    for emptied in sorted({file.parent for file in replaced}, key=lambda parent: -len(parent.parts)):
        with suppress(OSError):  # it holds other files as well
            emptied.rmdir()
    files.remove_partial(folder)
    files.write_json(folder / CONFIGURATION, _plain(configuration))


def check_folder(
    folder: Path, configuration: Mapping[str, Any], force: bool = False, done: str | None = DONE
) -> list[Path]:
    """The files that ``open_folder`` will remove; ValueError if a run with this configuration has no place here.

    A finished run (the file ``done`` is there) is replaced only if forced; what pyroscvi did not write, never.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    names = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    if not names:
        return []
    if CONFIGURATION not in names:
        raise ValueError(f"{folder} holds something else already: choose another folder")
    try:
        earlier = files.read_json(folder / CONFIGURATION)
    except DamagedFile as error:
        raise ValueError(f"{error}. Nothing was replaced: choose another folder") from error
    if force:
        return list(_written(folder))
    if names > {CONFIGURATION} and earlier != _plain(configuration):  # alone, it is left of a run that failed at once
        raise ValueError(f"{folder} holds another run already: choose another folder, or replace it with --force")
    if done in names:
        raise ValueError(f"{folder} holds this very run, finished: nothing is left to do. To repeat it, add --force")
    return []


def _plain(configuration: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(configuration, default=str))


def _written(folder: Path) -> Iterator[Path]:
    """The files of a run that pyroscvi wrote. Raises ValueError if one of them is another by now."""
    pages = files.read_json(folder / CONFIGURATION).get("pages", ())
    if changed := [file for file in files.altered(folder) if file.exists()] if (folder / CHECKSUMS).is_file() else []:
        raise ValueError(f"{changed[0]} is not as pyroscvi wrote it: move it elsewhere, or choose another folder")
    for file in folder.iterdir():
        if file.name in FORCED or file.name in pages:
            yield file
    for pattern in ("checkpoints/*.safetensors*", "kept/epoch_*.safetensors*", "events/events.out.tfevents*"):
        yield from folder.glob(pattern)
    for file in folder.glob("evidence/*.json"):
        with suppress(DamagedFile):
            files.read_json(file)
            yield file


class Interrupted(Exception):
    exit_code = 130  # of a program that Ctrl-C ended


def carry_out(folder: Path, model: Model, guide: Guide, seen: Cells, **training: Any) -> Fit:
    """``fit``, from the last checkpoint in the folder if there is one; raises ``Interrupted`` if it was interrupted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "interrupted in epoch")  # the error says it
        fitted = fit(model, guide, seen, folder=Folder(folder / "checkpoints", SECONDS), **training)
    if fitted.record["interrupted"]:
        raise Interrupted("interrupted: the same command goes on from here")
    return fitted


def judged_by(unseen: Cells | None, training: Mapping[str, Any]) -> dict[str, Any]:
    """The setting of ``fit`` that judges convergence by these cells; none with early stopping, which takes its own."""
    return {} if unseen is None or training.get("early_stopping") else {"validation": unseen}


def write_run(
    folder: Path, fitted: Fit, cells: Cells, obs: pd.DataFrame, unseen: Cells | None = None
) -> np.ndarray:  # fmt: skip
    """Write all files of a finished run; ``cells`` are those that were fitted and those that were held out.

    Returns the latents of all cells [n, d].

    Raises OSError, with what to do, where the disk is full; the checkpoints are still there then.
    """
    try:
        fitted.save(folder / "fit.safetensors")
        files.write_whole(folder / "history.csv", lambda file: fitted.history.to_csv(file, index=False))
        draw(folder / "history.png", plots.history({"held out": fitted.history}))
        z = write_cells(folder, fitted, cells, obs, unseen)
    except OSError as error:
        remedy = "Free some space: the same command then goes on from the last checkpoint"
        raise OSError(f"{error.filename} could not be written: {error.strerror}. {remedy}") from error
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return z


def write_cells(
    folder: Path, fitted: Fit, cells: Cells, obs: pd.DataFrame, unseen: Cells | None = None
) -> np.ndarray:  # fmt: skip
    """Write which cells were held out, the latents of all, and the checksums that make the folder a finished run.

    Returns the latents [n, d].
    """
    names = _names(cells)
    roles = pd.DataFrame({"held_out": names.isin([] if unseen is None else _names(unseen))}, index=names)
    files.write_whole(folder / "cells.csv", roles.to_csv)
    files.write_whole(folder / "genes.txt", lambda file: file.write_text("\n".join(fitted.genes) + "\n", "utf-8"))
    files.write_json(folder / "run.json", _plain(about(fitted)))
    latents = AnnData(obs=obs.loc[names], obsm={KEY: representation(fitted, cells)})
    files.write_whole(folder / "latents.h5ad", latents.write_h5ad)
    pages = files.read_json(folder / CONFIGURATION).get("pages", ())
    files.write_checksums(folder, (name for name in (*FILES, *pages) if (folder / name).is_file()))
    return latents.obsm[KEY]


def about(fitted: Fit) -> dict[str, Any]:
    """What a fit is: declarations, fields, vocabularies, and how it was made."""
    last = {} if fitted.history.empty else fitted.history.iloc[-1].dropna().to_dict()
    return {
        "model": repr(fitted.model), "guide": repr(fitted.guide), "converged": fitted.converged,
        "fields": None if fitted.fields is None else fitted.fields.to_dict(), "levels": fitted.levels,
        "genes": fitted.genes, "last_epoch": last,
        **{name: value for name, value in fitted.record.items() if name not in ("genes", "levels")},
    }  # fmt: skip


def _names(cells: Cells) -> pd.Index:
    return pd.Index([str(n) for n in range(len(cells))] if cells.names is None else cells.names, name="cell")


class Run(NamedTuple):
    """A finished run, as it was read."""

    folder: Path
    configuration: dict[str, Any]
    fit: Fit
    cells: pd.DataFrame  # index: names of cells; held_out

    @property
    def fields(self) -> Fields:
        """The fields with which the command line read the cells of this run."""
        if self.fit.fields is None:
            raise ValueError(f"{self.folder}: its fit was made without an AnnData and has no fields to read a file")
        return self.fit.fields

    @property
    def fitted_on(self) -> pd.Index:
        """Names of the cells of training. If several cells had one name, it is among them if one of the cells is.

        Such cells are numbered in order of appearance ("C", "C-1"), and may have another number in another file.
        """
        fitted = ~self.cells["held_out"].to_numpy()
        return self.cells.index[fitted].union(unnumbered(self.cells.index)[fitted])


def read_run(folder: Path, pages: Iterable[Path] = ()) -> Run:
    """The run in a folder. A page of your own runs as code, and so only where its file is named."""
    pages = list(pages)
    if not (folder / CONFIGURATION).is_file():
        raise ValueError(f"{folder} is no run folder: `pyroscvi fit` writes them")
    configuration = files.read_json(folder / CONFIGURATION)
    if not (folder / DONE).is_file():
        raise ValueError(f"{folder} holds an unfinished run: repeat the command that began it, and it goes on")
    if changed := files.altered(folder):
        what = "is not as pyroscvi wrote it" if changed[0].exists() else "is missing"
        raise DamagedFile(f"{changed[0]} {what}: restore it from a copy, or repeat the run in another folder")
    for page in configuration.get("pages", ()):
        if page not in {file.name for file in pages}:
            copy = folder / page
            raise ValueError(
                f"{folder} was fitted with a page of your own, {page}. A page runs as code: if you trust it, "
                f"add --page {copy if copy.is_file() else page}"
            )
    cells = pd.read_csv(folder / "cells.csv", index_col="cell", dtype={"cell": str})
    return Run(folder, configuration, load(folder, own_parts(pages)), cells)
