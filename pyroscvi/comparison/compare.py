"""Comparison: which of several fits explains cells best that none of them has seen.

    table = compare({"nb": nb, "nb + mixture": mixture}, held_out, by="batch")
    show(table)

Differences are taken cell by cell, because cells differ among each other by far more than models do; of what was fitted
with several seeds, between means over seeds. Three errors are kept apart: that of the Monte Carlo draws, that of having
seen these cells and not others (by donor or batch, where the cells of one are alike), and that of having fitted with
these seeds and not others. ``sweep`` makes the fits from a declaration, ``pyroscvi.report`` pictures and a page to send
from the table.
"""

from collections.abc import Mapping, Sequence
from math import hypot
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pyroscvi.comparison.cache import kept
from pyroscvi.comparison.paired import clusters, standard_error, verdict
from pyroscvi.comparison.question import question, refuse_unequal
from pyroscvi.comparison.refits import Refitted, recorded, usage_of_all
from pyroscvi.comparison.stacking import stacking_weights
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.estimator import Estimator
from pyroscvi.evidence.ladder import Ladder
from pyroscvi.evidence.pareto import HEAVY
from pyroscvi.evidence.reading import MEMORY, as_cells, pair
from pyroscvi.evidence.table import evidence_table, note

__all__ = ["cell_table", "compare", "show"]

FEW = 10  # clusters or seeds, of which an error is itself not well known
ONCE = "Every model was fitted once: what another seed would have given is in no error."


def compare(
    fits: Mapping[str, Any],
    cells: Any,
    particles: int = 1000,
    seed: int = 0,
    *,
    by: str | None = None,
    refits: Mapping[str, Sequence[Any]] | None = None,
    estimator: Estimator = Ladder(),
    certify: bool = False,
    batch_size: int | None = None,
    memory: int | str = MEMORY,
    compile: bool = False,
    dtype: torch.dtype = torch.float64,
    progress: bool = True,
) -> pd.DataFrame:
    """Held-out evidence of every fit, best first, and which differences can be told apart.

    fits       {name: Fit, or the folder of one}, or what ``sweep`` has fitted, in whose folders evidences are kept
    cells      held-out Cells, or an AnnData that every fit reads through its own fields; or {name: cells} where fits
               look at different columns of the same cells
    by         a categorical field ("batch") whose levels are clusters: errors are then over clusters, not cells
    refits     {name: fits of the same declaration with other seeds}, to take means over; those of a sweep are known
    certify    simulate cells from every fit and measure how far off its evidence is: ``pyroscvi.certify``
    particles, seed, estimator, batch_size, memory, compile, dtype, progress   as in ``evidence_table``

    evidence        mean of log p(x_n) over cells, each counting once, and over seeds, in nats
    difference      to the best, in nats a cell
    standard_error  of the difference: ``over_cells``, or ``over_clusters`` where there are any, and of both fits
                    ``refits`` over the root of the number of seeds, combined as squares
    over_cells      of the difference, paired: cells taken for independent of each other
    over_clusters   of the difference, paired: clusters taken for independent; NaN without ``by``
    monte_carlo     standard error of the difference that more particles would lessen; it is part of the two before
    refits          standard deviation of a fit's evidence between seeds; NaN with one seed, which is then in no error
    weight          in the mixture of all fits, every one its seeds in equal shares, that predicts these cells best:
                    ``stacking_weights``
    verdict         "told apart", or "indistinguishable": below 4 nats in total, or below 2 standard errors
    heavy_tailed    share of the cells whose k-hat is above 0.7: their evidence is too low, by nobody knows how much
    active_units    dimensions of z whose posterior mean varies over these cells by more than 0.01
    information     that z has of which cell it is, in nats; at most the log of the cells, or of 1,000 of them
    components      effective components of a mixture, exp H(mean responsibilities); NaN where there is none
    component_information   that the component has of the cell: 0 where several components are all alike
    kl_weight       the last one, the least of all seeds: below 1 a fit has not arrived at its bound
    certificate     "exact", "certified (gap 0.01)", "uncertified (gap 3.2)", or "uncertified" if nobody asked; the
                    weakest of all seeds

    Of several seeds ``heavy_tailed``, ``active_units`` to ``component_information`` and ``seconds`` are means.
    Cell by cell values are in ``table.attrs``: ``cell_table`` lays them out. Raises ValueError where two evidences are
    not probabilities of the same thing: other cells, genes, counts, estimand, support or base measure. The message says
    what to change.
    """
    if not fits:
        raise ValueError("compare needs at least one fit: compare({name: fit}, cells)")
    refits = getattr(fits, "refits", {}) if refits is None else refits
    loaded = {name: _loaded(fit) for name, fit in fits.items()}
    again = {name: [_loaded(fit) for fit in others] for name, others in refits.items()}
    given = {name: as_cells(fit, cells[name] if isinstance(cells, Mapping) else cells) for name, fit in loaded.items()}
    _refuse_other_declarations(loaded, again)
    several = {name: [fit, *again.get(name, ())] for name, fit in loaded.items()}
    questions = {
        _called(name, place): question(fit, given[name])
        for name, all_ in several.items()
        for place, fit in enumerate(all_)
    }
    refuse_unequal(questions)

    where: dict[str, Any] = {"batch_size": batch_size, "memory": memory}
    how: dict[str, Any] = {
        "particles": particles,
        "seed": seed,
        "estimator": estimator,
        "dtype": dtype,
        "certify": certify,
    }
    folders: Mapping[str, Sequence[Path]] = getattr(fits, "folders", {})

    def table(name: str, place: int) -> pd.DataFrame:
        fit = several[name][place]
        told = f"evidence of {_called(name, place)}" if progress else False

        def made() -> pd.DataFrame:
            return evidence_table(fit, given[name], **how, compile=compile, progress=told, **where)

        folder = next(iter(folders.get(name, ())[place:]), None)
        return kept(folder, fit, given[name], how, made)

    found = {name: Refitted([table(name, place) for place in range(len(all_))]) for name, all_ in several.items()}
    order = sorted(found, key=lambda name: -found[name].evidence)
    best = order[0]
    cluster = None if by is None else clusters(given[best], by)
    weights = stacking_weights(np.column_stack([found[name].log_mixture for name in order]))
    rows = [
        {
            "evidence": found[name].evidence,
            **_against(found[best], found[name], cluster),
            "refits": found[name].spread,
            "weight": weight,
            "estimand": questions[name].estimand,
            "heavy_tailed": found[name].heavy_tailed,
            **usage_of_all(several[name], given[name], seed, **where)._asdict(),
            **recorded(several[name]),
            "certificate": found[name].certificate,
        }
        for name, weight in zip(order, weights, strict=True)
    ]
    result = pd.DataFrame(rows, index=pd.Index(order, name="fit"))
    result.attrs = {
        "note": note(questions[best].estimand),
        "by": by,
        "clusters": None if cluster is None else int(cluster.max()) + 1,
        "particles": particles,
        "ladder": isinstance(estimator, Ladder),
        "cells": Listed(str(cell) for cell in found[best].cells),
        "log_evidence": Named({name: found[name].log_evidence.tolist() for name in order}),
        "monte_carlo_se": Named({name: found[name].monte_carlo_se.tolist() for name in order}),
        "library_size": Listed(given[best].library.squeeze(-1).tolist()),
        "groups": Named(_groups(given[best])),
        "genes": given[best].counts.shape[1],
        "declared": {name: tuple(map(repr, pair(loaded[name]))) for name in order},
        "latent": {name: getattr(pair(loaded[name])[0], "latent", None) for name in order},
        "fitted": {name: [_fitted(fit) for fit in several[name]] for name in order},
        "seeds": {name: found[name].seeds for name in order},
    }
    return result


class Listed(list[Any]):
    """Values of all cells. pandas copies what is attached to a table whenever a column is taken of it: not these."""

    def __deepcopy__(self, memo: Any) -> "Listed":
        return self


class Named(dict[str, list[Any]]):
    """The same by name."""

    def __deepcopy__(self, memo: Any) -> "Named":
        return self


def cell_table(table: pd.DataFrame) -> pd.DataFrame:
    """What a comparison knows of every cell, under two headings.

    cell          its library size, and the name of its level of every categorical field
    log_evidence  of every fit, in nats, the mean over its seeds
    """
    told = {"library_size": table.attrs["library_size"], **table.attrs["groups"]}
    known = pd.DataFrame(told, index=pd.Index(table.attrs["cells"], name="cell"))
    evidence = pd.DataFrame(table.attrs["log_evidence"], index=known.index)
    return pd.concat({"cell": known, "log_evidence": evidence}, axis=1)


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
    picture.add_column("weight", justify="right", no_wrap=True)
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
            f"{row['weight']:.2f}",
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
    if (many := table.attrs["clusters"]) is not None and many < FEW:
        remarks.append(f"Errors are over {many} clusters ({table.attrs['by']}), and not well known themselves.")
    seeds = set(table.attrs["seeds"].values())
    if (most := max(seeds)) > 1:
        few = " An error over so few is itself not well known." if min(seeds - {1}) < FEW else ""
        remarks.append(f"Evidences are means over {'up to ' if len(seeds) > 1 else ''}{most} seeds.{few}")
    elif len(table) > 1:
        remarks.append(ONCE)
    if (heavy := table["heavy_tailed"].max()) > 0:
        remarks.append(
            f"Importance weights have a heavy tail (k-hat above {HEAVY}) for {heavy:.0%} of the cells of "
            f"{table['heavy_tailed'].idxmax()!r}, and their evidence is too low: "
            + ("more particles lift it." if table.attrs["ladder"] else "the default method looks closer.")
        )
    return "\n".join(remarks) or None


def _loaded(fit: Any) -> Any:
    if isinstance(fit, str | Path):
        from pyroscvi.fitting.checkpoints import load

        return load(fit)
    return fit


def _called(name: str, place: int) -> str:
    """A fit with the first seed, or with one of the others."""
    return f"{name}, refit {place}" if place else name


def _against(best: Refitted, other: Refitted, cluster: np.ndarray | None) -> dict[str, Any]:
    """The difference to the best, its errors and what they allow to say."""
    if other is best:
        none = {"over_cells": 0.0, "over_clusters": np.nan if cluster is None else 0.0, "monte_carlo": 0.0}
        return {"difference": 0.0, "standard_error": 0.0, **none, "verdict": "best"}
    difference = other.log_evidence - best.log_evidence
    over_cells = float(standard_error(difference))
    over_clusters = np.nan if cluster is None else float(standard_error(difference, cluster))
    error = hypot(over_cells if cluster is None else over_clusters, best.error, other.error)
    draws = np.concatenate([best.monte_carlo_se, other.monte_carlo_se])
    return {
        "difference": difference.mean(),
        "standard_error": error,
        "over_cells": over_cells,
        "over_clusters": over_clusters,
        "monte_carlo": np.sqrt((draws**2).sum()) / len(difference),
        "verdict": verdict(difference.mean(), error, len(difference)),
    }


def _groups(cells: Cells) -> dict[str, list[str]]:
    """Levels of every categorical field, by their names; "?" where a level is not known."""
    named = {field: np.array([*names, "?"]) for field, names in cells.levels.items() if field in cells.categories}
    return {field: names[cells.categories[field].cpu().numpy()].tolist() for field, names in named.items()}


def _fitted(fit: Any) -> dict[str, Any]:
    """How a fit came about, as far as it has been written down."""
    record = getattr(fit, "record", {})
    return {name: record[name] for name in ("seed", "epochs", "best_epoch", "cells", "stopped_early") if name in record}


def _refuse_other_declarations(fits: Mapping[str, Any], refits: Mapping[str, Sequence[Any]]) -> None:
    for name, others in refits.items():
        if name not in fits:
            raise KeyError(f"refits of {name!r}, which is not compared; there are {', '.join(fits)}")
        for other in others:
            if repr(pair(other)) != repr(pair(fits[name])):
                raise ValueError(f"a refit of {name!r} differs by its seed alone, and {pair(other)} is another model")
