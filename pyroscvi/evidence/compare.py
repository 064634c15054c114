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
from pyroscvi.evidence.reading import as_cells, pair
from pyroscvi.evidence.refined import Refined
from pyroscvi.evidence.same import question, refuse_unequal

__all__ = ["compare", "show"]

FEWEST_NATS = 4.0  # in total: a likelihood ratio of 55
FEWEST_ERRORS = 2.0
HEAVY = 0.7  # k-hat


def compare(
    fits: Mapping[str, Any],
    cells: Any,
    particles: int = 1000,
    seed: int = 0,
    *,
    by: str | None = None,
    refits: Mapping[str, Sequence[Any]] | None = None,
    method: Any = None,
    proposal: Proposal | None = None,
    certify: bool = False,
) -> pd.DataFrame:
    """Held-out evidence of every fit, best first, and which differences can be told apart.

    fits       {name: Fit, or the folder of one}
    cells      held-out Cells, or an AnnData that every fit reads through its own fields; or {name: cells} where fits
               look at different columns of the same cells
    particles, seed, method, proposal   as in ``log_evidence``
    certify    simulate cells from every fit and measure how far off its evidence is: ``pyroscvi.certify``
    by         a categorical field ("batch") whose levels are clusters: errors are then over clusters, not cells
    refits     {name: fits of the same declaration with other seeds}

    evidence        mean of log p(x_n) over cells, each counting once, in nats
    difference      to the best, in nats a cell
    standard_error  of the difference, paired over cells or clusters, and widened by the refits where there are any
    monte_carlo     standard error of the difference that more particles would lessen; it is part of ``standard_error``
    refits          standard deviation of ``evidence`` over seeds; NaN without refits
    verdict         "told apart", or "indistinguishable": below 4 nats in total, or below 2 standard errors
    heavy_tailed    share of the cells whose k-hat is above 0.7: their evidence is too low, by nobody knows how much
    certificate     "exact", "certified (gap 0.01)", "uncertified (gap 3.2)", or "uncertified" if nobody asked

    Cell by cell values are in ``table.attrs``. Raises ValueError where two evidences are not probabilities of the same
    thing: other cells, genes, counts, estimand, support or base measure. The message says what to change.
    """
    if not fits:
        raise ValueError("compare needs at least one fit: compare({name: fit}, cells)")
    loaded = {name: _loaded(fit) for name, fit in fits.items()}
    again = {name: [_loaded(fit) for fit in others] for name, others in (refits or {}).items()}
    given = {name: as_cells(fit, cells[name] if isinstance(cells, Mapping) else cells) for name, fit in loaded.items()}
    questions = {name: question(fit, given[name]) for name, fit in loaded.items()}
    refuse_unequal(questions)
    _refuse_other_declarations(loaded, again)

    def table(name: str, fit: Any, certify: bool = False) -> pd.DataFrame:
        return evidence_table(fit, given[name], particles, seed, method=method, proposal=proposal, certify=certify)

    tables = {name: table(name, fit, certify) for name, fit in loaded.items()}
    means = {name: [table(name, fit)["log_evidence"].mean() for fit in others] for name, others in again.items()}
    order = sorted(tables, key=lambda name: -tables[name]["log_evidence"].mean())
    best = order[0]
    cluster = None if by is None else _clusters(given[best], by)
    spread = {name: _spread([tables[name]["log_evidence"].mean(), *means.get(name, ())]) for name in order}
    rows = [
        {
            "evidence": tables[name]["log_evidence"].mean(),
            **_against(tables[best], tables[name], cluster, np.hypot(*np.nan_to_num([spread[name], spread[best]]))),
            "refits": spread[name],
            "estimand": questions[name].estimand,
            "heavy_tailed": (tables[name]["k_hat"] > HEAVY).mean(),
            **_recorded(loaded[name]),
            "certificate": _weakest(tables[name]["certificate"]),
        }
        for name in order
    ]
    result = pd.DataFrame(rows, index=pd.Index(order, name="fit"))
    result.attrs = {
        "note": note(questions[best].estimand),
        "by": by,
        "refined": isinstance(proposal, Refined),
        "cells": [str(cell) for cell in tables[best].index],
        "log_evidence": {name: tables[name]["log_evidence"].tolist() for name in order},
        "monte_carlo_se": {name: tables[name]["monte_carlo_se"].tolist() for name in order},
    }
    return result


def show(table: pd.DataFrame) -> Any:
    """A comparison to look at: ``rich.print(show(table))``."""
    from rich import box
    from rich.table import Table

    picture = Table(
        title=f"{len(table.attrs['cells']):,} cells, mean {table.attrs['note']}",
        caption=_remarks(table),
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


def _remarks(table: pd.DataFrame) -> str | None:
    """What the numbers do not say by themselves."""
    remarks = []
    if (draws := table["monte_carlo"].max()) > 0:
        remarks.append(f"Of the standard errors, Monte Carlo is {draws:.2g} at most.")
    if (heavy := table["heavy_tailed"].max()) > 0:
        remarks.append(
            f"Importance weights have a heavy tail (k-hat above {HEAVY}) for {heavy:.0%} of the cells of "
            f"{table['heavy_tailed'].idxmax()!r}, and their evidence is too low: "
            + ("more particles lift it." if table.attrs["refined"] else "proposal=Refined() looks closer.")
        )
    return "\n".join(remarks) or None


def _loaded(fit: Any) -> Any:
    if isinstance(fit, str | Path):
        from pyroscvi.inference.checkpoints import load

        return load(fit)
    return fit


def _against(best: pd.DataFrame, other: pd.DataFrame, cluster: np.ndarray | None, seeds: float) -> dict[str, Any]:
    """The difference to the best, its errors and what they allow to say."""
    if other is best:
        return {"difference": 0.0, "standard_error": 0.0, "monte_carlo": 0.0, "verdict": "best"}
    difference = (other["log_evidence"] - best["log_evidence"].to_numpy()).to_numpy()
    error = np.hypot(_error(difference, cluster), seeds)
    draws = np.concatenate([best["monte_carlo_se"], other["monte_carlo_se"]])
    told = abs(difference.sum()) >= FEWEST_NATS and abs(difference.mean()) >= FEWEST_ERRORS * error
    return {
        "difference": difference.mean(),
        "standard_error": error,
        "monte_carlo": np.sqrt((draws**2).sum()) / len(difference),
        "verdict": "told apart" if told else "indistinguishable",
    }


def _error(difference: np.ndarray, cluster: np.ndarray | None) -> float:
    """Standard error of a mean over cells; where cells come in clusters, the sums of whole clusters are what varies."""
    residual = difference - difference.mean()
    sums = residual if cluster is None else np.bincount(cluster, residual)
    c, n = len(sums), len(difference)
    return np.sqrt(c / (c - 1) * (sums**2).sum()) / n if c > 1 else np.nan


def _spread(means: Sequence[float]) -> float:
    """Standard deviation over seeds; NaN where there is but one."""
    return float(np.std(means, ddof=1)) if len(means) > 1 else np.nan


def _clusters(cells: Cells, by: str) -> np.ndarray:
    if by not in cells.categories:
        raise KeyError(f"no categorical field {by!r} to cluster by; there are {sorted(cells.categories)}")
    _, cluster = np.unique(cells.categories[by].cpu().numpy(), return_inverse=True)
    if cluster.max() == 0:
        raise ValueError(f"all cells are of one {by}: there is no error over clusters; leave by= out")
    return cluster


def _refuse_other_declarations(fits: Mapping[str, Any], refits: Mapping[str, Sequence[Any]]) -> None:
    for name, others in refits.items():
        if name not in fits:
            raise KeyError(f"refits of {name!r}, which is not compared; there are {', '.join(fits)}")
        for other in others:
            if repr(pair(other)) != repr(pair(fits[name])):
                raise ValueError(f"a refit of {name!r} differs by its seed alone, and {pair(other)} is another model")


def _recorded(fit: Any) -> dict[str, Any]:
    """What a reader must know of how a fit came about."""
    model, _ = pair(fit)
    record = getattr(fit, "record", {})
    return {
        "kl_weight": record.get("kl_weight") or np.nan,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": record.get("seconds") or np.nan,
    }


def _weakest(certificates: pd.Series) -> str:
    """What holds of all cells of a table: some may be exact, and the others have one certificate between them."""
    estimated = certificates[certificates != "exact"]
    return "exact" if estimated.empty else estimated.iloc[0]
