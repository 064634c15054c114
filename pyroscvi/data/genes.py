"""Genes are matched by name: a model knows the share of CD3D, not of column 17."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata.utils import make_index_unique

from pyroscvi.advice import option
from pyroscvi.names import listed


def match(
    names: pd.Index, wanted: Sequence[str] | None, missing: str = "error", extra: bool = True
) -> tuple[tuple[str, ...], np.ndarray]:
    """The genes to read, and the column of each among these names, -1 where it is missing [g].

    wanted   names in order; None: all genes
    missing  what a missing gene is: an "error"; "zero" or "marginalise", with a warning; or "known", without one
    extra    report genes that are not wanted

    Warns once about genes that are missing, extra, in another order, or repeated.
    """
    names, repeated = numbered(names)
    notes = [f"names of several genes are numbered in order of appearance ('G', 'G-1'): {repeated}"] if repeated else []
    if wanted is None:
        columns = np.arange(len(names))
    else:
        columns = names.get_indexer(pd.Index(wanted))
        absent = np.asarray(wanted, dtype=object)[columns < 0]
        lacking = f"{len(absent):,} of {len(wanted):,} genes are missing"
        if len(absent) == len(wanted):
            raise ValueError(
                f"no gene matches: {listed(wanted, 3)} are wanted, {listed(names, 3)} are given. Give genes the names "
                "that they had at first"
            )
        if len(absent) and missing == "error":
            raise ValueError(
                f"{lacking}: {listed(absent)}. Give them the names that they had at first, or read with "
                f"{option('missing', 'marginalise')} if they were not measured: they are then left out of the "
                f"probability of these cells. {option('missing', 'zero')} would count them as zero"
            )
        if len(absent) and missing != "known":
            what = "filled with zeros" if missing == "zero" else "left out of the probability of these cells"
            notes.append(f"{lacking} and {what}: {listed(absent)}")
        others = names.difference(pd.Index(wanted), sort=False)
        if extra and len(others):
            notes.append(f"{len(others):,} other genes are left out: {listed(others)}")
        if extra and (np.diff(columns[columns >= 0]) < 0).any():
            notes.append("the genes are in another order: they are matched by name")
    if notes:
        warnings.warn("genes: " + "; ".join(notes), UserWarning, stacklevel=4)
    return tuple(names if wanted is None else wanted), columns


def unique_cells(names: pd.Index) -> pd.Index:
    """Names of cells, each of them once; a warning lists the names that were repeated."""
    names, repeated = numbered(names)
    if repeated:
        message = f"cells: names of several cells are numbered in order of appearance ('C', 'C-1'): {repeated}"
        warnings.warn(message, UserWarning, stacklevel=4)
    return names


def unnumbered(names: pd.Index) -> pd.Index:
    """The name that each may have had before it was numbered: "C" for "C-1", if "C" is among the names too."""
    names = names.astype(str)
    without = names.str.replace(r"-\d+$", "", regex=True)
    return without.where(without.isin(names), names)


def numbered(names: pd.Index) -> tuple[pd.Index, str]:
    """Unique names, as scanpy makes them ("TBCE", "TBCE-1"), and which names were repeated ("" if none was)."""
    names = names.astype(str)
    if names.is_unique:
        return names, ""
    return make_index_unique(names), listed(names[names.duplicated()].unique())
