"""The same question: evidences are compared where they are probabilities of one and the same thing, and only there."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse

from pyroscvi.data.cells import Cells
from pyroscvi.data.stored import Stored
from pyroscvi.evidence.reader import Reader, pair

__all__ = ["Question", "fingerprint", "question", "refuse_unequal"]


class Question(NamedTuple):
    """What an evidence is the evidence of."""

    names: list[str] | None  # of the cells
    genes: list[str] | None
    shape: tuple[int, int]
    counts: str  # fingerprint
    estimand: str
    measures: dict[str, str]  # base measure of every observed site
    supports: dict[str, str]


def question(fit: Any, cells: Cells) -> Question:
    """What is asked of this fit on these cells; ValueError where it was fitted to other genes or levels."""
    model, _ = pair(fit)
    joint = Reader(fit, cells.subset(torch.arange(1))).first
    estimand = _estimand(model, cells)
    observed = {name: kind for name, kind in joint.observed().items() if name != "label" or "label" in estimand}
    return Question(
        names=None if cells.names is None else list(map(str, cells.names)),
        genes=None if cells.genes is None else list(map(str, cells.genes)),
        shape=(len(cells), cells.counts.shape[1]),
        counts=fingerprint(cells),
        estimand=estimand,
        measures={name: measure for name, (measure, _) in observed.items()},
        supports={name: support for name, (_, support) in observed.items()},
    )


def fingerprint(cells: Cells) -> str:
    """A hash of the counts, whatever they are stored as."""
    counts = cells.counts.read() if isinstance(cells.counts, Stored) else cells.counts
    rows = sparse.csr_matrix(counts.cpu().numpy() if isinstance(counts, torch.Tensor) else counts, copy=True)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    content = hashlib.sha256(np.asarray(rows.shape, dtype=np.int64).tobytes())
    for part in (rows.indptr.astype(np.int64), rows.indices.astype(np.int64), rows.data.astype(np.float64)):
        content.update(part.tobytes())
    return content.hexdigest()


def refuse_unequal(questions: Mapping[str, Question]) -> None:
    """ValueError where two fits are asked different questions, with what to change."""
    (first, a), *others = questions.items()
    for second, b in others:
        remedy = _difference(f"{first!r}", a, f"{second!r}", b)
        if remedy:
            raise ValueError(f"{first!r} and {second!r} cannot be compared: {remedy}")


def _difference(first: str, a: Question, second: str, b: Question) -> str:
    """What differs and what to do about it, if anything; names that nobody gave are not held against anybody."""
    names, genes = (None not in both and both[0] != both[1] for both in ((a.names, b.names), (a.genes, b.genes)))
    if a.shape[0] != b.shape[0] or (names and set(a.names or ()) != set(b.names or ())):
        return f"the cells differ ({a.shape[0]:,} and {b.shape[0]:,}). Evaluate both on the same held-out cells"
    if names:
        return "the cells come in another order, and differences are taken cell by cell. Reorder one of them"
    if a.shape[1] != b.shape[1] or (genes and set(a.genes or ()) != set(b.genes or ())):
        only = sorted(set(a.genes or ()) ^ set(b.genes or ()))[:3]
        some = f", {', '.join(only)} among those that only one has" if only else ""
        return (
            f"the genes differ ({a.shape[1]:,} and {b.shape[1]:,}{some}). More genes are less probable, whatever the "
            "model: fit both to the same genes, Fields(..., genes=genes)"
        )
    if genes:
        return "the genes come in another order. Read both through the fields of one of them: fit.fields.read(adata)"
    if a.counts != b.counts:
        return "the counts differ. Read both from one layer: Fields(counts=...)"
    if a.estimand != b.estimand:
        return f"{first} gives {a.estimand} and {second} gives {b.estimand}. {_swap(first, a, second, b)}"
    if a.measures != b.measures:
        return (
            f"the base measures differ ({_told(a.measures)} and {_told(b.measures)}), so that one is a density and the "
            "other a probability. Score the density by its mass on [x - 1/2, x + 1/2]: "
            "with pyroscvi.evidence.as_counts(): compare(...)"
        )
    if a.supports != b.supports:
        return (
            f"the supports differ ({_told(a.supports)} and {_told(b.supports)}). Give both a likelihood over the same "
            "values"
        )
    return ""


def _swap(first: str, a: Question, second: str, b: Question) -> str:
    """Which part to exchange for another."""
    if ("label" in a.estimand) != ("label" in b.estimand):
        scores = first if "label" in a.estimand else second
        return f"{scores} is also asked for the labels: give it cells whose labels are unknown, {{{scores}: cells}}"
    given = first if "| l" in a.estimand else second
    return (
        f"The size of a cell in {given} is its own total, and p(x | l) is no density over x: declare "
        f"{given} with size=LatentSize() or size=SizeFactor(), or both with size=ObservedSize()"
    )


def _told(by_site: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in by_site.items())


def _estimand(model: Any, cells: Cells) -> str:
    """The model's estimand; labels that say nothing have probability one, and no part in it."""
    estimand = getattr(model, "estimand", "p(x)")
    said = cells.belief if cells.belief is not None else cells.label
    silent = said is None or bool((said == 1).all() if cells.belief is not None else (said < 0).all())
    return estimand.replace("x, label", "x") if silent else estimand
