"""The question of an evidence: only evidences that are probabilities of the same thing are compared."""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from pyroscvi.advice import either, field
from pyroscvi.data.cells import Cells
from pyroscvi.data.stored import Stored
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.table import estimand
from pyroscvi.program import Fitted, Pair


class Question(NamedTuple):
    """What an evidence is a probability of."""

    names: list[str] | None  # of the cells
    genes: list[str] | None
    shape: tuple[int, int]
    counts: str  # fingerprint
    measured: str  # fingerprint of the genes that were measured in each cell; "" if all were
    estimand: str
    proteins: str  # fingerprint; "" if the estimand has none
    labels: pd.DataFrame | None  # weights [n, y] if the estimand has labels; 0 for cells whose label is unknown
    measures: dict[str, str]  # base measure of every observed site
    supports: dict[str, str]


def question(fit: Fitted | Pair, cells: Cells) -> Question:
    """The question of this fit and these cells. ValueError if the fit was made with other genes or levels."""
    reader = Reader(fit, cells.subset(torch.arange(1)))
    name = estimand(reader.model, cells)
    kinds = reader.first.observed().items()
    observed = {site: kind for site, kind in kinds if site not in ("label", "proteins") or site in name}
    return Question(
        names=None if cells.names is None else list(map(str, cells.names)),
        genes=None if cells.genes is None else list(map(str, cells.genes)),
        shape=(len(cells), cells.counts.shape[1]),
        counts=fingerprint(cells),
        measured="" if cells.panels is None or cells.panel is None else _of_panels(cells.panels, cells.panel),
        estimand=name,
        proteins=_of_proteins(cells) if "proteins" in name else "",
        labels=_labels(cells) if "label" in name else None,
        measures={site: measure for site, (measure, _) in observed.items()},
        supports={site: support for site, (_, support) in observed.items()},
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


def _of_panels(panels: torch.Tensor, panel: torch.Tensor) -> str:
    """A hash of which genes were measured in each cell, however panels are numbered; "" if all were."""
    rows, code = np.unique(panels.cpu().numpy(), axis=0, return_inverse=True)
    used, of_cells = np.unique(code.reshape(-1)[panel.cpu().numpy()], return_inverse=True)
    content = hashlib.sha256(rows[used].tobytes() + of_cells.astype(np.int64).tobytes())
    return "" if rows[used].all() else content.hexdigest()


def _of_proteins(cells: Cells) -> str:
    """A hash of the counts of proteins; those that were not measured are -1 in it."""
    counts = cells.protein_counts(0).cpu().double().nan_to_num(-1).numpy()
    return hashlib.sha256(np.ascontiguousarray(counts).tobytes()).hexdigest()


def _labels(cells: Cells) -> pd.DataFrame:
    """Weights of the labels under the names of their levels; 0 everywhere for a cell whose label is unknown."""
    weights = cells.label_weights(len(cells.levels["label"])).cpu().double().numpy()
    return pd.DataFrame(np.where((weights == 1).all(1, keepdims=True), 0, weights), columns=list(cells.levels["label"]))


def refuse_unequal(questions: Mapping[str, Question]) -> None:
    """ValueError if two fits have different questions. The message says what to change."""
    (first, a), *others = questions.items()
    for second, b in others:
        remedy = _difference(f"{first!r}", a, f"{second!r}", b)
        if remedy:
            raise ValueError(f"{first!r} and {second!r} cannot be compared: {remedy}")


def _difference(first: str, a: Question, second: str, b: Question) -> str:
    """What differs and what to do about it, or nothing; names are compared only if both have them."""
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
    if a.measured != b.measured:
        options = " or ".join(either(f"missing={value!r}", f"--missing {value}") for value in ("marginalise", "zero"))
        return (
            "different genes were measured in the same cells, and a gene that is left out of one probability is part "
            f"of the other. Read both in the same way: {options}"
        )
    if ("values" in a.estimand) != ("values" in b.estimand):
        values, counts = (first, second) if "values" in a.estimand else (second, first)
        return (
            f"{values} gives a density of values that are not counts, and {counts} a probability of counts: these are "
            "on different scales. Fit both to the same"
        )
    if a.counts != b.counts:
        return f"the counts differ. Read both from one layer: {field('counts')}"
    if a.estimand != b.estimand:
        return f"{first} gives {a.estimand} and {second} gives {b.estimand}. {_swap(first, a, second, b)}"
    if a.proteins != b.proteins:
        return f"the counts of proteins differ. Read both in the same way: {field('proteins')}"
    if a.labels is not None and b.labels is not None and not np.allclose(*a.labels.align(b.labels, fill_value=0)):
        return "their labels differ, and labels are part of the probability. Give both the same labels for these cells"
    if a.measures != b.measures:
        return (
            f"the base measures differ ({_sites(a.measures)} and {_sites(b.measures)}), so that one is a density and "
            "the other a probability. Score the density by its mass on [x - 1/2, x + 1/2]: "
            "with pyroscvi.evidence.as_counts(): compare(...)"
        )
    if a.supports != b.supports:
        return (
            f"the supports differ ({_sites(a.supports)} and {_sites(b.supports)}). Give both a likelihood over the "
            "same values"
        )
    return ""


def _swap(first: str, a: Question, second: str, b: Question) -> str:
    """What to change if the estimands differ."""
    if ("label" in a.estimand) != ("label" in b.estimand):
        scores = first if "label" in a.estimand else second
        return f"{scores} also predicts labels: give it cells whose labels are unknown, {{{scores}: cells}}"
    if ("proteins" in a.estimand) != ("proteins" in b.estimand):
        scores = first if "proteins" in a.estimand else second
        return f"{scores} also predicts proteins: give it cells read without proteins, {{{scores}: cells}}"
    if ("others" in a.estimand) != ("others" in b.estimand):
        field, alone = (first, second) if "others" in a.estimand else (second, first)
        without = either("prior=Field(strength=0)", "--prior field:strength=0")
        return (
            f"{field} makes a cell depend on others of its tissue, which are given. To ask whether space explains "
            f"these cells, fit {alone} with {without}, or Domains with coupling=Coupling(strength=0)"
        )
    given = first if "| l" in a.estimand else second
    latent, observed = (either(f"size={name}Size()", f"--size {name.lower()}") for name in ("Latent", "Observed"))
    return (
        f"The size of a cell in {given} is its own total, or proportional to it, and p(x | l) is no density over x: "
        f"fit {given} with {latent}, or with a size factor that was not computed from these counts; or fit both with "
        f"{observed}"
    )


def _sites(by_site: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in by_site.items())
