"""Columns of obs and tables of obsm as numbers: levels of a category as codes, covariates and sizes as floats."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.special import softmax

from pyroscvi.advice import either, field, option
from pyroscvi.data.checks import check_numbers
from pyroscvi.names import listed

# Models compute in single precision, which goes from 1.2e-38 to 3.4e38.
LARGEST_FLOAT = 1e38
SIZE_RANGE = 1e-20, 1e20  # of size factors, and of the sum of a row of beliefs: their squares are in this range too
FARTHEST = 1e6  # standard deviations that a covariate of new cells may lie from the mean of training


def column(obs: pd.DataFrame, name: str, role: str) -> pd.Series:
    """A column of obs, or an error that lists the columns."""
    if name not in obs:
        raise KeyError(f"obs has no column {name!r} ({role}); it has {listed(obs.columns, 30) or 'none'}")
    values = obs[name]
    if isinstance(values, pd.DataFrame):
        raise ValueError(f"obs has {values.shape[1]} columns called {name!r} ({role}): rename all but one of them")
    return values


def codes(
    values: pd.Series, role: str, known: Sequence[str] | None = None, unknown: str = "error", missing: bool = False,
    optional: bool = True,
) -> tuple[np.ndarray, tuple[str, ...]]:  # fmt: skip
    """The code of every value [n], -1 where unknown, and the names of the levels in the order of their codes.

    known     levels from before; otherwise they are those of the values: a categorical's own order, otherwise sorted
    unknown   "allow" makes levels that are not known, and missing values, -1; otherwise they are errors
    missing   missing values are -1 in any case: a missing label is not an error
    optional  whether an error may suggest ``unknown="allow"``
    """
    try:
        categorical = values.astype("category").cat.remove_unused_categories()
        names = [_name(level, role) for level in categorical.cat.categories]
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        kinds = listed(dict.fromkeys(type(value).__name__ for value in values))
        raise TypeError(f"{role} holds values of type {kinds}, which cannot be levels: make them text") from error
    levels = tuple(dict.fromkeys(names)) if known is None else tuple(known)
    code_of = {name: code for code, name in enumerate(levels)}
    code = np.array([*(code_of.get(name, -2) for name in names), -1])[categorical.cat.codes.to_numpy()]
    if (code == -2).any():
        unseen = dict.fromkeys(np.asarray(names, dtype=object)[categorical.cat.codes[code == -2]])
        _refuse_unseen(role, int((code == -2).sum()), unseen, levels, unknown)
    if (code == -1).any() and not missing and unknown != "allow":
        first = values.index[code == -1][0]
        or_read = f", or read with {option('unknown', 'allow')} to treat them as unknown" if optional else ""
        raise ValueError(
            f"{role}: {(code == -1).sum():,} of {len(code):,} values are missing, the first in cell {first!r}. "
            f"Fill them in{or_read}"
        )
    if not levels:
        raise ValueError(f"{role}: every value is missing")
    return np.maximum(code, -1).astype(np.int64), levels


def numbers(values: pd.Series, role: str) -> np.ndarray:
    """A column as floats [n], all of them finite, and no more than single precision holds."""
    real = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_complex_dtype(values)
    if not (real or pd.api.types.is_bool_dtype(values)):
        instead = either(f"name it in {field('categories')}", f"name it with {field('categories')}")
        raise TypeError(f"{role} does not hold numbers but {values.dtype}: {instead} if it tells cells apart")
    floats = values.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)  # pandas 3 gives a view that is read-only
    check_numbers(floats, values.index, role, "finite", np.isfinite(floats))
    small = f"between -{LARGEST_FLOAT:g} and {LARGEST_FLOAT:g}, which single precision holds"
    check_numbers(floats, values.index, role, small, np.abs(floats) <= LARGEST_FLOAT)
    return floats


def standardised(values: pd.Series, role: str, moments: tuple[float, float] | None) -> tuple[np.ndarray, tuple]:
    """(value - mean) / sd [n], and the mean and sd: those of the values unless given. A constant becomes zeros."""
    floats = numbers(values, role)
    if moments is None:
        constant = np.ptp(floats) == 0  # exactly, whatever rounding makes of its mean and sd
        moments = (float(floats[0]), 0.0) if constant else (float(floats.mean()), float(floats.std()))
        if not constant and moments[1] < 1 / LARGEST_FLOAT:
            raise ValueError(f"{role} varies by {np.ptp(floats):.2g} only, too little for single precision: rescale it")
    mean, sd = moments
    scaled = (floats - mean) / (sd or 1.0)
    near = f"at most {FARTHEST:,.0f} standard deviations away from {mean:g}, its mean in training"
    check_numbers(floats, values.index, role, near, np.abs(scaled) <= FARTHEST)
    return scaled, moments


def sizes_of(values: pd.Series, role: str) -> np.ndarray:
    """Size factors as positive floats [n]."""
    smallest, largest = SIZE_RANGE
    floats = numbers(values, role)
    check_numbers(floats, values.index, role, "positive", floats > 0)
    moderate = (floats >= smallest) & (floats <= largest)
    check_numbers(floats, values.index, role, f"between {smallest:g} and {largest:g}", moderate)
    return floats


def table(adata: AnnData, key: str, role: str) -> Any:
    """What obsm holds under a key, or an error that lists the keys."""
    if key not in adata.obsm:
        raise KeyError(f"obsm has no {key!r} ({role}); it has {listed(adata.obsm) or 'nothing'}")
    return adata.obsm[key]


def floats_of(values: Any, role: str) -> np.ndarray:
    """A table of obsm as floats [n, columns]."""
    if sparse.issparse(values):
        raise TypeError(f"{role} is a sparse matrix: give a dense array, .toarray()")
    array = values.to_numpy() if isinstance(values, pd.DataFrame) else np.asarray(values)
    if array.dtype.kind == "O":  # columns of several types
        try:
            array = np.where(pd.isna(array), np.nan, array).astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{role} does not hold numbers: {error}") from error
    if array.dtype.kind not in "buif":
        raise TypeError(f"{role} does not hold numbers but {array.dtype}")
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"{role} must be a table of cells by columns, not an array of shape {array.shape}")
    return array.astype(np.float64)


def names_of(values: Any, floats: np.ndarray, role: str, what: str, known: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the columns of a table that was read as floats [n, columns]: its own, or those known, or numbers."""
    own = values.columns if isinstance(values, pd.DataFrame) else known or range(floats.shape[1])
    names = tuple(map(str, own))
    if len(names) != floats.shape[1]:
        raise ValueError(f"{role} has {floats.shape[1]} columns for the {len(names)} {what} {listed(names)}")
    if len(set(names)) < len(names):
        raise ValueError(f"{role} has two columns of one name, among {listed(names)}: rename one of them")
    return names


def weights(
    values: pd.DataFrame | np.ndarray, cells: pd.Index, role: str, known: Sequence[str] | None, unknown: str = "error",
    logits: bool = False,
) -> tuple[np.ndarray, tuple[str, ...]]:  # fmt: skip
    """Weights of every label [n, y], and the labels' names; a row is all NaN where nothing is known of the cell.

    logits   the values are logits, whose softmax are the weights

    Columns of a table have names, by which they are matched to labels that are known; those of an array are numbered.
    """
    floats = floats_of(values, role)
    names = names_of(values, floats, role, "labels", known)
    silent = np.isnan(floats).all(axis=1, keepdims=True)
    if logits:
        check_numbers(floats, cells, role, "a logit, finite", silent | np.isfinite(floats))
        floats = softmax(floats, axis=1)
    wanted = f"a weight, finite and not negative (of logits, {either('say Fields(logits=True)', 'take the softmax')})"
    check_numbers(floats, cells, role, wanted, silent | ((floats >= 0) & np.isfinite(floats)))
    total, (smallest, largest) = floats.sum(1, keepdims=True), SIZE_RANGE
    check_numbers(total, cells, f"the sum of a row of {role}", "positive", silent | (total > 0))
    moderate = silent | ((total >= smallest) & (total <= largest))
    check_numbers(total, cells, f"the sum of a row of {role}", f"between {smallest:g} and {largest:g}", moderate)
    if known is None or names == tuple(known):
        return floats, names
    if unseen := [name for name in names if name not in known]:
        concerned = (floats[:, [name in unseen for name in names]] > 0).any(1)
        _refuse_unseen(role, int(concerned.sum()), unseen, known, unknown)
    matched = pd.DataFrame(floats, columns=list(names)).reindex(columns=list(known), fill_value=0.0)
    return matched.where(matched.sum(axis=1) > 0).to_numpy(copy=True), tuple(known)


def _refuse_unseen(role: str, cells: int, unseen: Iterable[str], known: Sequence[str], unknown: str) -> None:
    """Raise ValueError for levels that are not known, unless that is allowed."""
    if unknown != "allow":
        raise ValueError(
            f"{role}: {cells:,} cells are of levels never seen before: {listed(unseen)}. "
            f"Known are {listed(known, 50)}. Read with {option('unknown', 'allow')} to treat them as unknown"
        )


def _name(level: object, role: str) -> str:
    """1, 1.0 and "1" are one level: a column of integers turns into floats where some are missing."""
    if isinstance(level, float | np.floating):
        if not float(level).is_integer():
            raise TypeError(f"{role} holds real numbers ({level}): name it in {field('covariates')}")
        return str(int(level))
    return str(level)
