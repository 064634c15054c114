"""``pyroscvi compare``: which of several models best explains cells that none of them was fitted on.

The models are finished run folders, or a sweep (``cli.sweep``), which is declared and fitted first.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pyroscvi.cli.data import read_data
from pyroscvi.cli.output import check_free, draw, say, terminal
from pyroscvi.cli.runs import Run, read_run
from pyroscvi.comparison.compare import compare
from pyroscvi.comparison.genes import compare_genes, zero_inflation
from pyroscvi.comparison.result import Comparison
from pyroscvi.data.cells import Cells
from pyroscvi.data.genes import unnumbered
from pyroscvi.fitting.files import write_whole
from pyroscvi.sugar import estimator

__all__ = ["compare_runs", "evidence_options", "is_sweep", "write_report"]


def is_sweep(places: Sequence[Path], data: Path | None, choices: Mapping[str, Sequence[str]]) -> bool:
    """Whether a sweep is meant, and not finished runs. ValueError if it is not clear."""
    if data is not None and choices:
        slot = next(iter(choices))
        raise ValueError(
            f"runs with --data are compared as they are, and --{slot.replace('_', '-')} declares new ones. A sweep "
            "takes its data first: pyroscvi compare DATA.h5ad --likelihood nb zinb --out RUNS"
        )
    if data is None and not choices and all(place.is_dir() for place in places):
        raise ValueError("Missing option '--data': the cells to compare these runs on")
    if data is None and not choices:
        raise ValueError("nothing to choose from: give choices, --likelihood nb zinb, or runs with --data DATA.h5ad")
    if choices and len(places) != 1:
        named = ", ".join(map(str, places))
        raise ValueError(f"a sweep takes one data set, not {len(places)}: {named}")
    return data is None


def compare_runs(
    runs: list[Path],
    data: Path,
    *,
    score: int,
    evidence: dict[str, Any],
    reading: dict[str, Any] | None = None,
    out: Path | None = None,
    picture: Path | None = None,
    report: Path | None = None,
    pages: list[Path] | None = None,
    force: bool = False,
) -> None:
    check_free(out, picture, report, force=force)
    evidence = evidence_options(**evidence)
    loaded = dict(zip(_names(runs), (read_run(run, pages or ()) for run in runs), strict=True))
    adata = read_data(data)
    fitted_on = set().union(*(run.fitted_on for run in loaded.values()))
    unseen = ~(adata.obs_names.isin(fitted_on) | unnumbered(adata.obs_names).isin(fitted_on))
    if not unseen.any():
        raise ValueError(f"every cell of {data} was fitted on by a run: fit with --held-out, or give other cells")
    say(f"{unseen.sum():,} of {len(adata):,} cells of {data} that no run was fitted on")
    rows = unseen.nonzero()[0]
    if len(rows) > score:
        rows = np.sort(np.random.default_rng(evidence["seed"]).choice(rows, score, replace=False))
        say(f"{score:,} of them are scored: --score says how many")

    def read(run: Run) -> Cells:
        """Unseen cells by name, each with its neighbours in the tissue whether they were seen or not."""
        cells = run.fields.read(adata, **(reading or {}))
        present = pd.Index(cells.names).get_indexer(adata.obs_names[rows])  # cells without counts may be left out
        return cells.subset(torch.as_tensor(present[present >= 0]), hops=run.fit.guide.encoder.hops)

    fits = {name: run.fit for name, run in loaded.items()}
    given = {name: read(run) for name, run in loaded.items()}
    comparison = compare(fits, given, **evidence)
    terminal().print(comparison)
    if out is not None:
        write_whole(out, comparison.table.to_csv)
    if picture is not None:
        draw(picture, comparison.plot())
    if report is not None:
        how = "those that none was fitted on"
        write_report(report, comparison, fits, given, evidence, data=str(data), held_out=how)


def write_report(
    file: Path,
    comparison: Comparison,
    fits: Mapping[str, Any],
    cells: Mapping[str, Cells],
    evidence: dict,
    **about: Any,
) -> None:
    """A page of HTML; with genes, where two of the fits differ by zero inflation alone."""
    order, by = {name: fits[name] for name in comparison.table.index}, evidence["by"]
    genes = None
    for two in zero_inflation(order)[:1]:
        say(f"{two[0]} and {two[1]}, gene by gene")
        chosen = {name: fits[name] for name in two}
        settings = {name: evidence[name] for name in ("particles", "seed", "compile", "dtype")}
        genes = compare_genes(chosen, {name: cells[name] for name in two}, by=by, **settings)
    known = list(comparison.by_cell["cell"].columns[1:])
    field = next((name for name in ("label", by, *known) if name in known), None)
    write_whole(file, lambda beside: comparison.report(beside, field=field, genes=genes, **about))
    say(f"{file}: the report, in one file")


def evidence_options(single: bool, method: str | None, proposal: str | None, **options: Any) -> dict[str, Any]:
    """The options of the command line, as ``compare`` takes them."""
    dtype = torch.float32 if single else torch.float64
    return {**options, "dtype": dtype, "estimator": estimator(method, proposal)}


def _names(runs: list[Path]) -> list[str]:
    """The folders' own names, or whole paths where two of those are the same."""
    names = [run.resolve().name for run in runs]
    names = names if len(set(names)) == len(names) else [str(run) for run in runs]
    if len(set(names)) < len(names):
        raise ValueError("a run is named twice")
    return names
