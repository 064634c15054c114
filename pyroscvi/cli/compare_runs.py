"""Compare finished runs on cells that none of them was fitted to, and write what was found."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pyroscvi.cli.output import check_free, draw, say, terminal
from pyroscvi.cli.runs import Run, read_run
from pyroscvi.comparison.compare import compare
from pyroscvi.comparison.genes import compare_genes, zero_inflation
from pyroscvi.comparison.result import Comparison
from pyroscvi.data.cells import Cells
from pyroscvi.data.genes import unnumbered
from pyroscvi.data.reading import read
from pyroscvi.fitting.files import write_whole
from pyroscvi.program import Fitted
from pyroscvi.sugar import estimator


def compare_runs(
    folders: list[Path],
    data: Path,
    reading: dict[str, Any],
    score: int,
    evidence: dict[str, Any],
    *,
    annotations: Path | None,
    pages: Iterable[Path],
    out: Path | None,
    picture: Path | None,
    report: Path | None,
    force: bool,
) -> Comparison:
    check_free(out, picture, report, force=force)
    runs = dict(zip(_names(folders), (read_run(folder, pages) for folder in folders), strict=True))
    adata = read(data, annotations)
    fitted_to = set().union(*(run.fitted_on for run in runs.values()))
    unseen = ~(adata.obs_names.isin(fitted_to) | unnumbered(adata.obs_names).isin(fitted_to))
    if not unseen.any():
        raise ValueError(f"every cell of {data} was in one of the fits: fit with --held-out, or give other cells")
    say(f"{unseen.sum():,} of {len(adata):,} cells of {data} were in no fit")
    rows = unseen.nonzero()[0]
    if len(rows) > score:
        rows = np.sort(np.random.default_rng(evidence["seed"]).choice(rows, score, replace=False))
        say(f"{score:,} of them are scored: --score says how many")

    def unseen_cells(run: Run) -> Cells:
        """Unseen cells by name, each with its neighbours in the tissue whether they were seen or not."""
        cells = run.fields.read(adata, **reading)
        present = pd.Index(cells.names).get_indexer(adata.obs_names[rows])  # cells without counts may be left out
        return cells.subset(torch.as_tensor(present[present >= 0]), hops=run.fit.hops)

    fits = _by_declaration(runs)
    given = {name: unseen_cells(runs[name]) for name in fits}
    comparison = compare(fits, given, **evidence)
    terminal().print(comparison)
    if out is not None:
        write_whole(out, comparison.table.to_csv)
    if picture is not None:
        draw(picture, comparison.plot())
    if report is not None:
        about = {"data": str(data), "held_out": "no run was fitted to any of them"}
        write_report(report, comparison, {name: runs[name].fit for name in fits}, given, evidence, **about)
    return comparison


def _by_declaration(runs: Mapping[str, Run]) -> dict[str, list[Any]]:
    """Fits that differ by their seed alone as fits of one name, that of the first."""
    fits: dict[str, list[Any]] = {}
    first: dict[str, str] = {}
    for name, run in runs.items():
        model, guide, record = run.fit.model, run.fit.guide, run.fit.record
        settings = {key: value for key, value in record["settings"].items() if key != "seed"}
        of = first.setdefault(repr((model, guide, settings, record["cells"])), name)
        if record["seed"] in [fit.record["seed"] for fit in fits.get(of, ())]:
            of = name  # a copy of a run
        fits.setdefault(of, []).append(run.fit)
        if of != name:
            say(f"{name} is {of} with another seed")
    return fits


def write_report(
    file: Path,
    comparison: Comparison,
    fits: Mapping[str, Fitted],
    cells: Mapping[str, Cells],
    evidence: Mapping[str, Any],
    **about: Any,
) -> None:
    """A page of HTML; with genes, where two of the fits differ by zero inflation alone."""
    order, by = {name: fits[name] for name in comparison.table.index}, evidence["by"]
    genes = None
    for two in zero_inflation(order)[:1]:
        say(f"{two[0]} and {two[1]}, gene by gene")
        chosen = {name: fits[name] for name in two}
        settings = {name: evidence[name] for name in ("seed", "compile", "dtype")}
        genes = compare_genes(chosen, {name: cells[name] for name in two}, by=by, **settings)
    known = list(comparison.by_cell["cell"].columns[1:])
    field = next((name for name in ("label", by, *known) if name in known), None)
    write_whole(file, lambda beside: comparison.report(beside, field=field, genes=genes, **about))
    say(f"{file}: the report, in one file")


def evidence_options(single: bool, method: str | None, proposal: str | None, **options: Any) -> dict[str, Any]:
    """The options of the command line, as ``compare`` takes them."""
    dtype = torch.float32 if single else None
    return {**options, "dtype": dtype, "estimator": estimator(method, proposal)}


def _names(runs: list[Path]) -> list[str]:
    """The folders' own names, or whole paths where two of those are the same."""
    names = [run.resolve().name for run in runs]
    names = names if len(set(names)) == len(names) else [str(run) for run in runs]
    if len(set(names)) < len(names):
        raise ValueError("the same run folder is given twice")
    return names
