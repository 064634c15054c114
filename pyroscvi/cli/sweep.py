"""``pyroscvi compare DATA.h5ad``: fit every combination that is declared and not yet fitted, and compare all of them.

OUT/<hash>/          a run folder for each fit, named by its content
    runs.csv         which of them is which
    comparison.csv   the table
    comparison.png   differences to the best
    cells.csv        log evidence of every held-out cell under every fit, the mean over its seeds
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pyroscvi.cli.compare_runs import write_report
from pyroscvi.cli.data import read_cells, split_off
from pyroscvi.cli.declare import declare, own_files
from pyroscvi.cli.grouped import Genes
from pyroscvi.cli.output import check_free, draw, say, terminal
from pyroscvi.cli.runs import CONFIGURATION, DONE, judged_by, write_cells
from pyroscvi.comparison.compare import compare
from pyroscvi.comparison.result import Comparison
from pyroscvi.comparison.sweep import Declared, Swept, combinations, sweep
from pyroscvi.data.cells import Cells
from pyroscvi.fitting.files import CHECKSUMS, altered, write_checksums, write_json, write_whole
from pyroscvi.program import Guide, Model

WRITTEN = ("runs.csv", "comparison.csv", "comparison.png", "cells.csv")
NUMBERED = ("latent",)  # slots whose name is part of the name of a choice: "latent 5"


def compare_sweep(
    data: Path,
    choices: Mapping[str, Sequence[str]],
    fields: dict[str, Any],
    reading: dict[str, Any],
    genes: Genes,
    held_out: float,
    score: int,
    seed: int,
    seeds: int,
    training: Mapping[str, Any],
    evidence: dict[str, Any],
    *,
    annotations: Path | None,
    split_by: str | None,
    out: Path | None,
    picture: Path | None,
    report: Path | None,
    force: bool,
) -> Comparison:
    if out is None:
        raise ValueError("Missing option '--out': the folder in which the fits of the sweep are kept")
    check_free(picture, report, force=force)
    check_sweep_folder(out)
    declared = declared_grid(choices)
    cells, obs = read_cells(data, fields, reading, genes, annotations)
    by = None if cells.batch is None else "batch"
    seen, unseen = split_off(cells, obs, held_out, by, split_by, seed)
    of = f"every {fields[by]}" if by and not split_by else "all cells"
    by_level = f", whole levels of {split_by}" if split_by else ""
    how = f"{len(unseen) / len(cells):.0%} of {of}{by_level}, drawn with seed {seed}"
    scored = unseen
    if len(unseen) > score:
        _, scored = unseen.split(score / len(unseen), by=by, seed=seed)
        how += f"; {len(scored):,} of them were scored"
    say(f"{len(seen):,} cells to fit and {len(scored):,} to compare on, {cells.counts.shape[1]:,} genes")

    about = {"data": str(data), "pages": own_files(*choices.get("model", ()), *choices.get("guide", ()))}
    swept = fit_runs(out, declared, seen, unseen, cells, obs, about, range(seed, seed + seeds), **training)
    comparison = compare(swept, scored, **evidence)
    write_comparison(out, swept, comparison)
    write_checksums(out, WRITTEN)
    if picture is not None:
        draw(picture, comparison.plot())
    terminal().print(comparison)
    if report is not None:
        context = {"data": str(data), "held_out": how, "failed": swept.failed}
        write_report(report, comparison, swept, dict.fromkeys(swept, scored), evidence, **context)
    return comparison


def fit_runs(
    out: Path,
    declared: Declared,
    seen: Cells,
    unseen: Cells,
    cells: Cells,
    obs: pd.DataFrame,
    about: Mapping[str, Any],
    seeds: Iterable[int],
    **training: Any,
) -> Swept:
    """A sweep whose folders are those of runs.

    about  where the data are from ("data"), and the files of own pages ("pages")
    """
    how = {**training, **judged_by(unseen, training)}
    swept = sweep(declared, seen, folder=out, seeds=list(seeds), tell=say, **how)
    if not swept:
        raise ValueError("none of the models could be fitted: " + "; ".join(swept.failed.values()))
    pages = [file.name for file in about["pages"]]
    for name, folders in swept.folders.items():
        for folder, fitted in zip(folders, swept.by_seed[name], strict=True):
            if not (folder / DONE).is_file():  # what makes the folder of a fit that of a run
                write_json(folder / "configuration.json", {"data": about["data"], "name": name, "pages": pages})
                write_cells(folder, fitted, cells, obs, unseen)
    return swept


def write_comparison(out: Path, swept: Swept, comparison: Comparison) -> None:
    """Write the tables and the picture of a sweep."""
    runs = pd.DataFrame(
        [(name, fit.record["seed"], folder.name)
         for name, folders in swept.folders.items()
         for fit, folder in zip(swept.by_seed[name], folders, strict=True)],
        columns=["fit", "seed", "folder"],
    )  # fmt: skip
    write_whole(out / "runs.csv", lambda file: runs.to_csv(file, index=False))
    write_whole(out / "comparison.csv", comparison.table.to_csv)
    write_whole(out / "cells.csv", comparison.by_cell[["cell", "log_evidence"]].droplevel(0, axis=1).to_csv)
    draw(out / "comparison.png", comparison.plot())
    say(f"{out}: comparison.csv and .png, cells.csv, and a folder for every fit, which runs.csv names")


def check_sweep_folder(out: Path, written: Iterable[str] = WRITTEN) -> None:
    """ValueError if a sweep cannot write these files into this folder without replacing what a sweep did not write."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: a sweep takes a folder, in which every fit has its own")
    if (out / CONFIGURATION).exists():
        raise ValueError(f"{out} is the folder of a run: choose another folder for the sweep")
    changed = altered(out) if (out / CHECKSUMS).exists() else [out / name for name in written]
    if foreign := [file for file in changed if file.exists()]:
        raise ValueError(f"{foreign[0]} is not as a sweep wrote it: move it elsewhere, or choose another folder")


def declared_grid(choices: Mapping[str, Sequence[str]]) -> dict[str, tuple[Model, Guide]]:
    """Models and guides from the words of the command line, called by those words."""
    for slot, words in choices.items():
        if len(set(words)) < len(words):
            raise ValueError(f"--{slot.replace('_', '-')} names a choice twice: {' '.join(words)}")
    worded = {slot: {f"{slot} {w}" if slot in NUMBERED else w: w for w in words} for slot, words in choices.items()}
    return {name: declare(**chosen) for name, chosen in combinations(worded).items()}
