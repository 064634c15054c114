"""What an AnnData holds: where its counts are, and which columns are batches, donors, labels, conditions, coordinates.

Nothing is guessed silently: ``Inspection.notes`` says what was recognised, and why.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from pyroscvi.advice import either
from pyroscvi.data.checks import are_all_counts, holds_counts, layer_names
from pyroscvi.data.columns import column
from pyroscvi.names import among

# How columns of obs are often called, the most telling names first.
BATCHES = ("batch(_?id)?", "sample(_?id)?", "orig.ident", "library(_?id)?", "(bio_?)?rep(licate)?", "lane", "study")
DONORS = ("donor(_?id)?", "patient(_?id)?", "individual", "subject(_?id)?", "ind(iv)?")
LABELS = ("cell_?types?.*", "labels?", "bulk_labels", "annotation.*", "domain", "main_supercategory", "celltype.*")
CONDITIONS = ("condition", "treatment", "stim(ulation)?", "perturbation", "disease", "group(_?id)?")
SECTIONS = ("section", "slice", "slide", "fov", "library_id")
COUNT_LAYERS = ("counts", "raw_counts", "count", "raw")
MAX_LEVELS = 100
MIN_CELLS = 5  # of a batch that is corrected for unasked


@dataclass(frozen=True)
class Inspection:
    """Where an AnnData holds what: the result of ``inspect``.

    adata      the cells; those of ``raw`` where only raw holds counts
    fields     the arguments of ``Fields``
    donor, label, condition   columns of obs, where there are any
    notes      what was recognised as what, one sentence each
    from_raw   whether counts are those of raw
    """

    adata: AnnData
    fields: dict[str, Any]
    donor: str | None
    label: str | None
    condition: str | None
    notes: tuple[str, ...]
    from_raw: bool = False


def inspect(adata: AnnData, **asked: str | None) -> Inspection:
    """Look at the cells; what is ``asked`` for (counts, batch, donor, label, condition, spatial) is taken as it is.

    Raises ValueError if no matrix holds counts, and KeyError for a column that does not exist.
    """
    notes = [f"{adata.n_obs:,} cells and {adata.n_vars:,} genes."]
    where = _counts(adata, asked.get("counts"))
    from_raw = where == "raw"
    if from_raw:
        adata = adata.raw.to_adata()
    layer = None if where in (None, "raw") else where
    notes.append(f"Counts: {'raw' if from_raw else 'X' if layer is None else f'layer {layer!r}'}, all whole numbers.")
    taken: dict[str, str | None] = {}
    patterns = {"batch": BATCHES, "donor": DONORS, "label": LABELS, "condition": CONDITIONS}
    for role in ("label", "condition", "donor", "batch"):
        name = asked.get(role)
        if name is not None:
            column(adata.obs, name, role)
        else:
            name = _column(adata, patterns[role], [one for one in taken.values() if one], role == "batch")
        taken[role] = name
        if name is not None:
            how = "as you said" if asked.get(role) else "by its name"
            notes.append(f"{role.capitalize()}: obs[{name!r}], {adata.obs[name].nunique()} levels ({how}){USES[role]}.")
    is_wanted = taken["batch"] is None or _nested(adata, taken["batch"], taken["condition"])
    if asked.get("batch") is None and is_wanted and not _nested(adata, taken["donor"], taken["condition"]):
        if taken["donor"] is not None:
            notes.append(f"Batch: obs[{taken['donor']!r}], the donor, so that differences between conditions remain.")
        taken["batch"] = taken["donor"] or taken["batch"]
    if taken["batch"] is None:
        notes.append(f"Batch: none. To correct for one, name its column: {either('batch=...', '--batch ...')}")
    if nested := _nested(adata, taken["batch"], taken["condition"]):
        notes.append(nested)
    spatial, section = _spatial(adata, asked.get("spatial")), None
    if spatial is not None:
        section = _column(adata, SECTIONS, [], False)
        inside = f", in {adata.obs[section].nunique()} sections, obs[{section!r}]" if section else ""
        notes.append(f"Coordinates: obsm[{spatial!r}]{inside}.")
    fields = {"counts": layer, "batch": taken["batch"]}
    if spatial is not None and asked.get("spatial"):
        fields |= {"spatial": spatial, "section": section}
    return Inspection(adata, fields, taken["donor"], taken["label"], taken["condition"], tuple(notes), from_raw)


USES = {
    "batch": "; the model corrects for it",
    "donor": "; the unit of tests, where there are several",
    "label": "; not used by the model, and compared with the clusters",
    "condition": "; not used by the model, and tested within clusters",
}


def _counts(adata: AnnData, asked: str | None) -> str | None:
    """The layer with counts; None is X, and "raw" is raw. What is called like counts comes first."""
    if asked is not None:
        return None if asked == "X" else among(asked, {name: name for name in layer_names(adata)}, "layer")
    layers = layer_names(adata)
    named = [name for name in COUNT_LAYERS if name in layers]
    for name in (*named, None, *(name for name in layers if name not in named)):
        if holds_counts(adata, name):
            return name
    if adata.raw is not None and are_all_counts(adata.raw.X):
        return "raw"
    raise ValueError(
        "no counts: neither X, nor a layer, nor raw holds whole numbers only. The models explain the counts "
        "themselves, as they are before any normalisation, logarithm or scaling: give the data as they were counted"
    )


def _column(adata: AnnData, patterns: tuple[str, ...], taken: list[str], as_batch: bool) -> str | None:
    """The first column of obs that is called like this and could be it."""
    for pattern in patterns:
        for name in map(str, adata.obs.columns):
            if (
                name not in taken
                and re.fullmatch(pattern, name, re.IGNORECASE)
                and _is_category(adata.obs[name], as_batch)
            ):
                return name
    return None


def _is_category(values: Any, as_batch: bool) -> bool:
    """Whether a column has a few levels, of which each has cells; a batch that is corrected for misses no value."""
    if not isinstance(values, pd.Series) or (pd.api.types.is_float_dtype(values) and not as_batch):
        return False
    sizes = values.value_counts()
    sizes = sizes[sizes > 0]
    enough = 2 <= len(sizes) <= min(MAX_LEVELS, len(values) // 2)
    return enough and not (as_batch and (values.isna().any() or sizes.min() < MIN_CELLS))


def _nested(adata: AnnData, batch: str | None, condition: str | None) -> str:
    """A warning if every batch has cells of one condition only."""
    if batch is None or condition is None or batch == condition:
        return ""
    pairs = adata.obs[[batch, condition]].drop_duplicates()
    if pairs[batch].duplicated().any() or pairs[condition].nunique() < 2:
        return ""
    return (
        f"Attention: every level of {batch!r} has one level of {condition!r}. Correcting for the first takes "
        "differences of the second out of the latent space, too; they remain in the tests within clusters."
    )


def _spatial(adata: AnnData, asked: str | None) -> str | None:
    if asked is not None:
        return among(asked, {name: name for name in adata.obsm}, "key of obsm")
    keys: Iterator[str] = (
        name for name in ("spatial", "X_spatial") if name in adata.obsm and np.ndim(adata.obsm[name]) == 2
        and adata.obsm[name].shape[1] in (2, 3)
    )  # fmt: skip
    return next(keys, None)
