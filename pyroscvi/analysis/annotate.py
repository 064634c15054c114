"""Annotation: the type of every cell with its probability, and which cells are of no type that the fit knows.

    result = fit.annotate(query, reference=held_out)
    result.table["annotation"]            a type, or "unknown"
    result.scores(truth)                  accuracy, calibration, ...

Probabilities are Bayes' rule (``probabilities``), and they add up to one also for a cell that is of none of the types.
Whether any type explains a cell is shown by its evidence, log p(x) summed over types. It is compared with the evidence
of cells that the fit should know: held-out cells, or cells that the fit simulates in the place of these. The evidence
of a cell depends on its total count and its type, so both are accounted for by regression.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import ArrayLike
from torch import Tensor

from pyroscvi.analysis.probabilities import as_table, log_joint, sites_and_fields
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.proposals import Proposal, StudentT
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.simulated import simulate
from pyroscvi.program import Fitted
from pyroscvi.pyro_internals import alone

UNKNOWN = "unknown"
BINS = 15  # of the expected calibration error


@dataclass(frozen=True, eq=False)
class Annotation:
    """The result of ``annotate``.

    table          one row a cell: type, the most probable one; its probability; log_evidence; p_value, the share of
                   reference cells whose evidence is as low or lower; annotation, the type or "unknown"
    probabilities  p(type | x) [cells x types]
    reference      "held-out cells" or "simulated cells"
    """

    table: pd.DataFrame
    probabilities: pd.DataFrame
    reference: str

    def scores(self, truth: ArrayLike) -> dict[str, float]:
        """How good types and probabilities are, given the true types of the cells; missing ones are left out.

        accuracy, balanced_accuracy, macro_f1  of the most probable type, over cells of types that the fit knows
        log_loss                           minus the mean log-probability of the true type
        calibration_error                  mean distance of the probability of the best type from its accuracy, in bins
        called_unknown                     share of the cells of known types that are called unknown
        found_unknown                      share of the cells of other types that are called unknown
        """
        from sklearn.metrics import f1_score, recall_score

        true, p = self.true_types(truth), self.probabilities
        known, novel = true.isin(p.columns).to_numpy(), (true.notna() & ~true.isin(p.columns)).to_numpy()
        result: dict[str, float] = {"cells": float(known.sum())}
        unknown = (self.table["annotation"] == UNKNOWN).to_numpy()
        if known.any():
            best, right = self.table["type"][known], true[known].astype(str)
            columns = p.columns.get_indexer(right)
            options: Any = {"labels": sorted(set(right)), "average": "macro"}
            result |= {
                "accuracy": float((best == right).mean()),
                "balanced_accuracy": recall_score(right, best, **options),
                "macro_f1": f1_score(right, best, **options),
                "log_loss": float(-np.log(np.clip(p.to_numpy()[known, columns], 1e-15, 1)).mean()),
                "calibration_error": self._calibration_error((best == right).to_numpy(), known),
                "called_unknown": float(unknown[known].mean()),
            }
        if novel.any():
            result["found_unknown"] = float(unknown[novel].mean())
        return result

    def true_types(self, truth: ArrayLike) -> pd.Series:
        """The true types as text, by cell; missing values stay missing."""
        values = pd.Series(np.asarray(truth, dtype=object), index=self.table.index)
        return values.where(values.isna(), values.astype(str))

    def _calibration_error(self, right: np.ndarray, rows: np.ndarray) -> float:
        p = self.table["probability"].to_numpy()[rows]
        place = np.minimum((p * BINS).astype(int), BINS - 1)
        gap = np.bincount(place, p - right, BINS)  # count times mean distance
        return float(np.abs(gap).sum() / len(p))

    def __repr__(self) -> str:
        unknown = int((self.table["annotation"] == UNKNOWN).sum())
        types = self.probabilities.shape[1]
        return f"Annotation({len(self.table):,} cells, {types} types, {unknown:,} unknown, against {self.reference})"


@alone
def annotate(
    fit: Fitted, cells: Cells | AnnData, site: str | None = None, *, reference: Cells | AnnData | None = None,
    unknown: float = 0.01, particles: int = 200, prior: ArrayLike | None = None, seed: int = 0,
    proposal: Proposal = StudentT(),
) -> Annotation:  # fmt: skip
    """The type of every cell, its probability, and whether any type explains the cell; recorded labels are not used.

    site        an enumerated site ("y", "k") or a field ("label"). None takes the first of "y", "label" and "k" that
                the model has
    reference   cells of known types that the fit was not fitted to: evidence is compared with theirs. None takes cells
                that the fit simulates; if real cells have a property that the model lacks, too many are then unknown
    unknown     a cell is "unknown" if at most this share of reference cells has so low an evidence
    particles   draws of the state of every cell
    prior       p(type) of a field; equal weights by default

    Raises ValueError where the model has no types.
    """
    if not 0 <= unknown < 1:
        raise ValueError(f"unknown is a share of cells, at least 0 and below 1, not {unknown}")
    query = _unlabelled(fit, cells)
    reader = Reader(fit, query)
    site = _site(reader) if site is None else site
    how: Any = (site, particles, seed, prior, proposal)
    log_p = log_joint(reader, *how)
    p, best = as_table(reader, site, log_p), log_p.argmax(1)
    usual = _simulated(reader, site, best, seed) if reference is None else Reader(fit, _unlabelled(fit, reference))
    log_usual = log_joint(usual, *how)
    p_value = _p_values((log_p, reader.cells), (log_usual, usual.cells))
    kind = p.columns.to_numpy()[best.numpy()]
    table = pd.DataFrame(
        {
            "type": kind,
            "probability": p.to_numpy().max(1),
            "log_evidence": log_p.logsumexp(1).numpy(),
            "p_value": p_value,
            "annotation": np.where(p_value <= unknown, UNKNOWN, kind),
        },
        index=p.index,
    )
    return Annotation(table, p, "simulated cells" if reference is None else "held-out cells")


def _unlabelled(fit: Fitted, data: Cells | AnnData) -> Cells:
    """The cells with unknown labels: a column of labels is not read, so it may be missing or hold other types."""
    if isinstance(data, AnnData) and fit.fields is not None:
        data = replace(fit.fields, label=None, belief=None).read(data)
    cells = replace(fit.read(data), belief=None)
    if cells.label is None:
        return cells
    return replace(cells, categories={**cells.categories, "label": torch.full_like(cells.label, -1)})


def _site(reader: Reader) -> str:
    sites, fields = sites_and_fields(reader)
    for name, among in (("y", sites), ("label", fields), ("k", sites)):
        if name in among:
            return name
    raise ValueError(
        f"{type(reader.model).__name__} has no types of cells: fit a model that has, such as Annotated() or SCANVI(), "
        "with a column of labels"
    )


def _simulated(reader: Reader, site: str, best: Tensor, seed: int) -> Reader:
    """A simulated cell in the place of each cell, of its most probable type if the type is a field."""
    cells = reader.cells
    if site in cells.levels and site in sites_and_fields(reader)[1]:
        cells = replace(cells, categories={**cells.categories, site: best.to(cells.device)})
    counts = simulate(reader.of(cells), 2**33 + seed).observed["x"].clamp(min=0)
    return reader.of(replace(cells, counts=counts.to(cells.dtype)))


def _p_values(query: tuple[Tensor, Cells], reference: tuple[Tensor, Cells]) -> np.ndarray:
    """The share of reference cells whose evidence is not higher, given the total and the most probable type [n]."""
    x, y = _design(*reference), reference[0].logsumexp(1).numpy()
    coefficients = np.linalg.lstsq(x, y, rcond=None)[0]
    residual = y - x @ coefficients
    scale = np.linalg.lstsq(x[:, :2], np.abs(residual), rcond=None)[0]
    least = 0.2 * np.abs(residual).mean() + 1e-9

    def standardised(log_p: Tensor, cells: Cells) -> np.ndarray:
        x = _design(log_p, cells)
        return (log_p.logsumexp(1).numpy() - x @ coefficients) / np.maximum(x[:, :2] @ scale, least)

    usual = np.sort(standardised(*reference))
    return (1 + np.searchsorted(usual, standardised(*query), side="right")) / (1 + len(usual))


def _design(log_p: Tensor, cells: Cells) -> np.ndarray:
    """One, the log total and its square, and an indicator of each type [n, 3 + types]."""
    size = cells.library.squeeze(-1).clamp(min=1).log().double().cpu().numpy()
    types = np.eye(log_p.shape[1])[log_p.argmax(1).numpy()]
    return np.column_stack([np.ones_like(size), size, size**2, types])
