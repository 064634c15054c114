"""Genes are matched by name: a model knows the share of CD3D, not of column 17."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata.utils import make_index_unique

from pyroscvi.data.checks import listed

__all__ = ["match", "numbered"]


def match(
    found: pd.Index, wanted: Sequence[str] | None, missing: str = "error", extra: bool = True
) -> tuple[tuple[str, ...], np.ndarray]:
    """The genes to read, and the column of each among those found, -1 where it is missing [g].

    wanted   names in order; None: all that are found
    missing  "zero" lets genes be missing, and counts as if none of their molecules had been seen
    extra    report genes that are found and not wanted

    Warns once of everything that a person would want to know: genes missing, extra, in another order, or repeated.
    """
    names, notes = numbered(found)
    if wanted is None:
        columns = np.arange(len(names))
    else:
        columns = names.get_indexer(pd.Index(wanted))
        absent = np.asarray(wanted, dtype=object)[columns < 0]
        if len(absent) and missing != "zero":
            raise ValueError(
                f"{len(absent):,} of {len(wanted):,} genes are missing: {listed(absent)}. Name them as they were at "
                f"first, or read with missing='zero' to count none of them"
            )
        if len(absent) == len(wanted):
            raise ValueError(
                f"none of the {len(wanted):,} genes is here: {listed(absent)} are wanted, {listed(names)} found"
            )
        if len(absent):
            notes.append(
                f"{len(absent):,} of {len(wanted):,} genes are missing and filled with zeros: {listed(absent)}"
            )
        others = len(names) - (columns >= 0).sum()
        if extra and others:
            notes.append(
                f"{others:,} other genes are left out: {listed(names.difference(pd.Index(wanted), sort=False))}"
            )
        if extra and (np.diff(columns[columns >= 0]) < 0).any():
            notes.append("the genes are in another order: they are matched by name")
    if notes:
        warnings.warn("genes: " + "; ".join(notes), UserWarning, stacklevel=3)
    return tuple(names if wanted is None else wanted), columns


def numbered(names: pd.Index) -> tuple[pd.Index, list[str]]:
    """Unique names, as scanpy makes them ("TBCE", "TBCE-1"), and a note of what was repeated."""
    names = names.astype(str)
    if names.is_unique:
        return names, []
    repeated = names[names.duplicated()].unique()
    note = f"names that stand for several genes are numbered in order of appearance ('G', 'G-1'): {listed(repeated)}"
    return make_index_unique(names), [note]
