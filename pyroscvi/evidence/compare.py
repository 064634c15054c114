"""Comparison: which of several fits explains cells best that none of them has seen.

    table = compare({"nb": nb, "nb + mixture": mixture}, held_out, by="batch")
    show(table)

Differences are taken cell by cell, because cells differ among each other by far more than models do. Three errors are
kept apart: that of the Monte Carlo draws, that of having seen these cells and not others (by donor or batch, where the
cells of one are alike), and that of having fitted with this seed and not another.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.importance import evidence_table, note
from pyroscvi.evidence.proposals import Proposal
from pyroscvi.evidence.reading import as_cells
from pyroscvi.evidence.same import question, refuse_unequal

__all__ = ["compare", "show"]

FEWEST_NATS = 4.0  # in total: a likelihood ratio of 55
FEWEST_ERRORS = 2.0


def compare(
    fits: Mapping[str, Any],
    cells: Any,
    particles: int = 1000,
    seed: int = 0,
    *,
    by: str | None = None,
    refits: Mapping[str, Sequence[Any]] | None = None,
    proposal: Proposal | None = None,
) -> pd.DataFrame:
    """Held-out evidence of every fit, best first, and which differences can be told apart.

    fits       {name: Fit, or the folder of one}
    cells      held-out Cells, or an AnnData that every fit reads through its own fields; or {name: cells} where fits
               look at different columns of the same cells
    particles, seed, proposal   as in ``log_evidence``
    by         a categorical field ("batch") whose levels are clusters: errors are then over clusters, not cells
    refits     {name: fits of the same declaration with other seeds}

    evidence        mean of log p(x_n) over cells, each counting once, in nats
    difference      to the best, in nats a cell
    standard_error  of the difference, paired over cells or clusters, and widened by the refits where there are any
    monte_carlo     standard error of the difference that more particles would lessen; it is part of ``standard_error``
    refits          standard deviation of ``evidence`` over seeds; NaN without refits
    verdict         "told apart", or "indistinguishable": below 4 nats in total, or below 2 standard errors
    certificate     "exact" or "uncertified"

    Cell by cell values are in ``table.attrs``. Raises ValueError where two evidences are not probabilities of the same
    thing: other cells, genes, counts, estimand, support or base measure. The message says what to change.
    """
    if not fits:
        raise ValueError("compare needs at least one fit: compare({name: fit}, cells)")
    loaded = {name: _loaded(fit) for name, fit in fits.items()}
    given = {name: as_cells(fit, cells[name] if isinstance(cells, Mapping) else cells) for name, fit in loaded.items()}
    questions = {name: question(fit, given[name]) for name, fit in loaded.items()}
    refuse_unequal(questions)

    def evidence(name: str, fit: Any) -> pd.DataFrame:
        return evidence_table(fit, given[name], particles, seed, proposal=proposal)

    tables = {name: evidence(name, fit) for name, fit in loaded.items()}
    per_cell = pd.DataFrame({name: table["log_evidence"] for name, table in tables.items()})
    noise = pd.DataFrame({name: table["monte_carlo_se"] for name, table in tables.items()})
    spread = pd.Series(np.nan, index=per_cell.columns)
    for name, others in (refits or {}).items():
        again = [evidence(name, _loaded(fit))["log_evidence"].mean() for fit in others]
        spread[name] = np.std([per_cell[name].mean(), *again], ddof=1)

    order = per_cell.mean().sort_values(ascending=False, kind="stable").index
    best = order[0]
    cluster = None if by is None else _clusters(given[best], by)
    rows = []
    for name in order:
        difference = (per_cell[name] - per_cell[best]).to_numpy()
        seeds = np.nansum([spread[name] ** 2, spread[best] ** 2]) if name != best else 0.0
        error = np.sqrt(_squared_error(difference, cluster) + seeds)
        draws = 0.0 if name == best else np.sqrt((noise[[name, best]].to_numpy() ** 2).sum()) / len(difference)
        told = abs(difference.sum()) >= FEWEST_NATS and abs(difference.mean()) >= FEWEST_ERRORS * error
        rows.append(
            {
                "evidence": per_cell[name].mean(),
                "difference": difference.mean(),
                "standard_error": error,
                "monte_carlo": draws,
                "refits": spread[name],
                "verdict": "best" if name == best else "told apart" if told else "indistinguishable",
                "estimand": questions[name].estimand,
                **_recorded(loaded[name]),
                "certificate": _one(tables[name]["certificate"]),
            }
        )
    result = pd.DataFrame(rows, index=pd.Index(order, name="fit"))
    result.attrs = {
        "note": note(questions[best].estimand),
        "cells": [str(cell) for cell in per_cell.index],
        "log_evidence": {name: per_cell[name].tolist() for name in order},
        "monte_carlo_se": {name: noise[name].tolist() for name in order},
        "by": by,
    }
    return result


def show(table: pd.DataFrame) -> Any:
    """A comparison to look at: ``rich.print(show(table))``."""
    from rich import box
    from rich.table import Table

    draws = table["monte_carlo"].max()
    picture = Table(
        title=f"{len(table.attrs['cells']):,} cells, mean {table.attrs['note']}",
        caption=f"Of the standard errors, Monte Carlo is {draws:.2g} at most." if draws > 0 else None,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
    )
    picture.add_column("fit")
    for heading in ("evidence", "difference", "± s.e."):
        picture.add_column(heading, justify="right", no_wrap=True)
    picture.add_column("verdict", no_wrap=True)
    picture.add_column("KL", justify="right", no_wrap=True)
    picture.add_column("certificate", no_wrap=True)
    for name, row in table.iterrows():
        best = row["verdict"] == "best"
        picture.add_row(
            str(name),
            f"{row['evidence']:.3f}",
            "" if best else f"{row['difference']:.3f}",
            "" if best else f"{row['standard_error']:.3f}",
            row["verdict"],
            "" if np.isnan(row["kl_weight"]) else f"{row['kl_weight']:.2f}",
            row["certificate"],
            style="bold" if best else None,
        )
    return picture


def _loaded(fit: Any) -> Any:
    if isinstance(fit, str | Path):
        from pyroscvi.inference.checkpoints import load

        return load(fit)
    return fit


def _squared_error(difference: np.ndarray, cluster: np.ndarray | None) -> float:
    """Variance of a mean over cells; over clusters of cells the sums of whole clusters are what varies."""
    residual = difference - difference.mean()
    sums = residual if cluster is None else np.bincount(cluster, residual)
    c, n = len(sums), len(difference)
    return c / (c - 1) * float((sums**2).sum()) / n**2 if c > 1 else np.nan


def _clusters(cells: Cells, by: str) -> np.ndarray:
    if by not in cells.categories:
        raise KeyError(f"no categorical field {by!r} to cluster by; there are {sorted(cells.categories)}")
    _, cluster = np.unique(cells.categories[by].cpu().numpy(), return_inverse=True)
    if cluster.max() == 0:
        raise ValueError(f"all cells are of one {by}: there is no error over clusters; leave by= out")
    return cluster


def _recorded(fit: Any) -> dict[str, Any]:
    """What a reader must know of how a fit came about."""
    model = fit[0] if isinstance(fit, tuple) else fit.model
    record = getattr(fit, "record", {})
    return {
        "kl_weight": record.get("kl_weight") or np.nan,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": record.get("seconds") or np.nan,
    }


def _one(certificates: pd.Series) -> str:
    """The weakest of the certificates of all cells."""
    return "exact" if (certificates == "exact").all() else "uncertified"
