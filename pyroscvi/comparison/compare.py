"""Comparison: which of several fits best explains cells that none of them was fitted to.

    comparison = compare({"nb": nb, "nb + mixture": mixture}, held_out, by="batch")
    print(comparison)
    comparison.report("report.html")

Differences are paired: they are taken cell by cell, because cells differ from each other far more than models do. If a
model was fitted with several seeds, its evidence is the mean over the seeds. A standard error has three sources, which
the table keeps apart: random posterior samples (Monte Carlo), the choice of these cells (or clusters of cells, such as
donors, whose cells are alike), and the choice of these seeds. ``sweep`` makes the fits from declarations.
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
from pyroscvi.comparison.result import Comparison, FitSummary
from pyroscvi.comparison.stacking import stacking_weights
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.estimator import Estimator
from pyroscvi.evidence.ladder import Ladder
from pyroscvi.evidence.reader import MEMORY, Reader, as_cells, pair
from pyroscvi.evidence.table import Evidences, evidences

__all__ = ["compare"]


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
) -> Comparison:
    """The held-out evidence of every fit, best first, and which differences can be told apart.

    fits       {name: Fit, or the folder of one}, or the result of ``sweep``, which keeps evidences in its folders
    cells      held-out Cells, or an AnnData that every fit reads through its own fields; {name: cells} if fits read
               different columns of the same cells
    by         a categorical field ("batch") whose levels are clusters: standard errors are then over clusters
    refits     {name: fits of the same declaration with other seeds}; by default those of the sweep
    certify    simulate cells from every fit and measure the error of its evidence: ``pyroscvi.certify``
    particles, seed, estimator, batch_size, memory, compile, dtype, progress   as in ``log_evidence``

    The table of the result has one row for each fit and these columns:

    evidence        mean of log p(x_n) over cells and over seeds, in nats
    difference      to the best fit, in nats a cell
    standard_error  of the difference: ``over_clusters`` if there are clusters, else ``over_cells``, and ``refits`` over
                    the square root of the number of seeds, of both fits; combined as a root of a sum of squares
    over_cells      paired standard error of the difference, as if cells were independent
    over_clusters   paired standard error of the difference, as if clusters were independent; NaN without ``by``
    monte_carlo     Monte Carlo standard error of the difference. ``over_cells`` and ``over_clusters`` include it
    refits          standard deviation of the evidence between seeds; NaN with one seed, and then in no standard error
    weight          of the fit in the mixture of all fits that predicts these cells best, in which the seeds of a fit
                    have equal shares: ``stacking_weights``
    verdict         "best", "told apart" or "indistinguishable": below 4 nats in total, or below 2 standard errors
    estimand        what the evidence is a probability of, such as "p(x | l)"
    heavy_tailed    share of the cells whose k-hat is above 0.7: their evidence is too low by an unknown amount
    active_units    dimensions of z whose posterior mean has a variance above 0.01 over these cells
    information     mutual information of z and the cell, in nats; at most the log of the number of cells, or of 1,000
    components      effective number of components of a mixture, exp H(mean responsibilities); NaN without a mixture
    component_information   mutual information of the component and the cell: 0 if all components are alike
    kl_weight       at the end of training, the smallest of all seeds; below 1 the fit maximised another bound
    certificate     "exact", "certified (gap 0.01)", "uncertified (gap 3.2)", or "uncertified" without ``certify``; the
                    weakest of all seeds

    With several seeds, ``heavy_tailed``, ``active_units`` to ``component_information`` and ``seconds`` are means.
    Raises ValueError where two evidences are not probabilities of the same thing: other cells, genes, counts, estimand,
    support or base measure. The message says what to change.
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

    options: dict[str, Any] = {"batch_size": batch_size, "memory": memory, "compile": compile, "dtype": dtype}
    readers = {name: [Reader(fit, given[name], **options) for fit in all_] for name, all_ in several.items()}
    how: dict[str, Any] = {
        "particles": particles,
        "seed": seed,
        "estimator": estimator,
        "dtype": dtype,
        "certify": certify,
    }
    folders: Mapping[str, Sequence[Path]] = getattr(fits, "folders", {})

    def evidences_of(name: str, place: int) -> Evidences:
        label = f"evidence of {_called(name, place)}" if progress else False

        def compute() -> Evidences:
            reader = readers[name][place]
            return evidences(reader, particles, seed, estimator=estimator, certify=certify, progress=label)

        folder = next(iter(folders.get(name, ())[place:]), None)
        return kept(folder, several[name][place], given[name], how, compute)

    scores = {name: Refitted([evidences_of(name, at) for at in range(len(all_))]) for name, all_ in several.items()}
    order = sorted(scores, key=lambda name: -scores[name].evidence)
    best = order[0]
    cluster = None if by is None else clusters(given[best], by)
    weights = stacking_weights(np.column_stack([scores[name].log_mixture for name in order]))
    rows = [
        {
            "evidence": scores[name].evidence,
            **_against(scores[best], scores[name], cluster),
            "refits": scores[name].spread,
            "weight": weight,
            "estimand": questions[name].estimand,
            "heavy_tailed": scores[name].heavy_tailed,
            **usage_of_all(readers[name], seed)._asdict(),
            **recorded(several[name]),
            "certificate": scores[name].certificate,
        }
        for name, weight in zip(order, weights, strict=True)
    ]
    return Comparison(
        table=pd.DataFrame(rows, index=pd.Index(order, name="fit")),
        by_cell=_by_cell({name: scores[name] for name in order}, given[best]),
        fits={name: _summary(several[name]) for name in order},
        genes=given[best].counts.shape[1],
        particles=particles,
        by=by,
        clusters=None if cluster is None else int(cluster.max()) + 1,
    )


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


def _by_cell(scores: Mapping[str, Refitted], cells: Cells) -> pd.DataFrame:
    """What is known of every cell, and what every fit gives it; levels are "?" where they are not known."""
    index = pd.Index([str(cell) for cell in next(iter(scores.values())).cells], name="cell")
    known = {"library_size": cells.library.squeeze(-1).cpu().numpy()}
    for field, levels in cells.levels.items():
        if field in cells.categories:
            known[field] = np.array([*levels, "?"])[cells.categories[field].cpu().numpy()]
    parts = {
        "cell": known,
        "log_evidence": {name: score.log_evidence for name, score in scores.items()},
        "monte_carlo_se": {name: score.monte_carlo_se for name, score in scores.items()},
    }
    return pd.concat({heading: pd.DataFrame(columns, index=index) for heading, columns in parts.items()}, axis=1)


def _summary(fits: Sequence[Any]) -> FitSummary:
    """The declaration of a fit, and how it was fitted with every seed, as far as it was recorded."""
    model, guide = pair(fits[0])
    shown = ("seed", "epochs", "best_epoch", "cells", "stopped_early")
    records = [getattr(fit, "record", {}) for fit in fits]
    seeds = [{name: record[name] for name in shown if name in record} for record in records]
    return FitSummary(repr(model), repr(guide), getattr(model, "latent", None), seeds)


def _refuse_other_declarations(fits: Mapping[str, Any], refits: Mapping[str, Sequence[Any]]) -> None:
    for name, others in refits.items():
        if name not in fits:
            raise KeyError(f"refits of {name!r}, which is not compared; there are {', '.join(fits)}")
        for other in others:
            if repr(pair(other)) != repr(pair(fits[name])):
                raise ValueError(f"a refit of {name!r} differs by its seed alone, and {pair(other)} is another model")
