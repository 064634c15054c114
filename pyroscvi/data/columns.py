"""Columns of obs as numbers: levels of a category as codes, covariates and sizes as floats."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from pyroscvi.data.checks import check_numbers, listed

__all__ = ["codes", "column", "numbers", "standardised", "weights"]


def column(obs: pd.DataFrame, name: str, role: str) -> pd.Series:
    """A column of obs, or an error that lists those there are."""
    if name not in obs:
        raise KeyError(f"obs has no column {name!r} ({role}); it has {listed(obs.columns, 30) or 'none'}")
    return obs[name]


def codes(
    values: pd.Series, role: str, known: Sequence[str] | None = None, unknown: str = "error", missing: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The code of every value [n], -1 where unknown, and the names of the levels in the order of their codes.

    known    levels from before; otherwise they are learnt: a categorical's own order, otherwise sorted
    unknown  "allow" makes levels that are not known, and missing values, -1; otherwise they are errors
    missing  missing values are -1 without being asked: a label that nobody gave is no error
    """
    categorical = values.astype("category").cat.remove_unused_categories()
    names = [_name(level, role) for level in categorical.cat.categories]
    levels = tuple(dict.fromkeys(names)) if known is None else tuple(known)
    place = {name: code for code, name in enumerate(levels)}
    code = np.array([*(place.get(name, -2) for name in names), -1])[categorical.cat.codes.to_numpy()]
    if (code == -2).any():
        seen = dict.fromkeys(np.asarray(names, dtype=object)[categorical.cat.codes[code == -2]])
        _unseen(role, int((code == -2).sum()), seen, levels, unknown)
    if (code == -1).any() and not missing and unknown != "allow":
        first = values.index[code == -1][0]
        raise ValueError(
            f"{role}: {(code == -1).sum():,} of {len(code):,} values are missing, the first in cell {first!r}. "
            f"Fill them in, or read with unknown='allow' to treat them as unknown"
        )
    if not levels:
        raise ValueError(f"{role}: every value is missing")
    return np.maximum(code, -1).astype(np.int64), levels


def numbers(values: pd.Series, role: str) -> np.ndarray:
    """A column as finite floats [n]."""
    if not (pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values)):
        raise TypeError(
            f"{role} does not hold numbers but {values.dtype}: name it in categories if it tells cells apart"
        )
    floats = values.to_numpy(dtype=np.float64, na_value=np.nan)
    check_numbers(floats, values.index, role, "finite", np.isfinite(floats))
    return floats


def standardised(values: np.ndarray, moments: tuple[float, float] | None) -> tuple[np.ndarray, tuple[float, float]]:
    """(value - mean) / sd, and the mean and sd; they are those of the values unless given. A constant becomes zeros."""
    if moments is None:
        constant = np.ptp(values) == 0  # exactly, whatever rounding makes of its mean and sd
        moments = (float(values[0]), 0.0) if constant else (float(values.mean()), float(values.std()))
    mean, sd = moments
    return (values - mean) / (sd or 1.0), moments


def weights(
    values: pd.DataFrame | np.ndarray, cells: pd.Index, role: str, known: Sequence[str] | None, unknown: str = "error"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """What is believed of every label [n, y], and the labels' names; a row is all NaN where nothing is said.

    Columns of a table have names, by which they are matched to labels that are known; those of an array are numbered.
    """
    floats = np.array(values, dtype=np.float64)
    numbered = known or tuple(map(str, range(floats.shape[1])))
    names = tuple(map(str, values.columns)) if isinstance(values, pd.DataFrame) else tuple(numbered)
    if len(names) != floats.shape[1]:
        raise ValueError(f"{role} has {floats.shape[1]} columns for the {len(names)} labels {listed(names)}")
    silent = np.isnan(floats).all(axis=1, keepdims=True)
    wanted = "a weight, finite and not negative (of logits, take the softmax)"
    check_numbers(floats, cells, role, wanted, silent | ((floats >= 0) & np.isfinite(floats)))
    total = floats.sum(1, keepdims=True)
    check_numbers(total, cells, f"the sum of a row of {role}", "positive", silent | (total > 0))
    if known is None or names == tuple(known):
        return floats, names
    if unseen := [name for name in names if name not in known]:
        _unseen(role, int((floats[:, [name in unseen for name in names]] > 0).any(1).sum()), unseen, known, unknown)
    table = pd.DataFrame(floats, columns=list(names)).reindex(columns=list(known), fill_value=0.0)
    return table.where(table.sum(axis=1) > 0).to_numpy(), tuple(known)


def _unseen(role: str, cells: int, seen: Iterable[str], known: Sequence[str], unknown: str) -> None:
    """Raise for levels that were not there at first, unless that is allowed."""
    if unknown != "allow":
        raise ValueError(
            f"{role}: {cells:,} cells are of levels never seen before: {listed(seen)}. "
            f"Known are {listed(known, 50)}. Read with unknown='allow' to treat them as unknown"
        )


def _name(level: object, role: str) -> str:
    """1, 1.0 and "1" are one level: a column of integers turns into floats where some are missing."""
    if isinstance(level, float | np.floating):
        if not float(level).is_integer():
            raise TypeError(f"{role} holds real numbers ({level}): name it in covariates")
        return str(int(level))
    return str(level)
