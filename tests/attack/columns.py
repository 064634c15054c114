"""Odd columns of obs and keys of obsm: for each field of Fields, what is expected and how the values are made."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

__all__ = ["COLUMNS", "OBSM"]

Make = Callable[[np.random.Generator, int], Any]


def _cycle(*values: Any, dtype: Any = object) -> Make:
    def make(rng: np.random.Generator, n: int) -> np.ndarray:
        column = np.empty(n, dtype=object)
        column[:] = [values[i % len(values)] for i in range(n)]
        return column.astype(dtype)

    return make


def _one_of(value: Any) -> Make:
    """Positive numbers, the first of them replaced."""

    def make(rng: np.random.Generator, n: int) -> np.ndarray:
        column = np.asarray(rng.gamma(2.0, 1.0, n) + 0.1, dtype=np.result_type(type(value), float))
        column[:1] = value
        return column

    return make


def _array(kind: str, *values: Any) -> Make:
    return lambda rng, n: pd.array([values[i % len(values)] for i in range(n)], dtype=kind)


def _weights(change: Callable[[np.ndarray], Any] = lambda weights: weights) -> Make:
    return lambda rng, n: change(rng.dirichlet([1, 1, 1], n))


def _places(change: Callable[[np.ndarray], Any] = lambda places: places) -> Make:
    return lambda rng, n: change(rng.uniform(size=(n, 2)))


def _first(value: Any, column: Any = slice(None)) -> Callable[[np.ndarray], np.ndarray]:
    def change(table: np.ndarray) -> np.ndarray:
        table[:1, column] = value
        return table

    return change


LEVELS = {
    "text": ("accept", _cycle("a", "b")),
    "whole floats": ("accept", _cycle(3.0, 1.0, dtype=float)),
    "booleans": ("accept", _cycle(True, False, dtype=bool)),
    "odd names": ("accept", _cycle("nan", "?", "", "[red]", "<script>", "$x^$", "\x1b[31m")),
    "strings of pandas": ("accept", _array("string", "a", "b")),
    "unused levels": ("accept", lambda rng, n: pd.Categorical(_cycle("b", "a")(rng, n), categories=["z", "b", "a"])),
    "one level": ("accept", _cycle("only")),
    **{f"{value!r} among text": ("either", _cycle("a", value)) for value in (None, 1, 2.5, b"a", ("a", 1), 1j)},
    "lists": ("either", _cycle([1], [2])),
    "dictionaries": ("either", _cycle({"a": 1}, {})),
    "fractions": ("either", _cycle(3.5, 1.0, dtype=float)),
    "infinity": ("either", _cycle(np.inf, 1.0, dtype=float)),
    "nothing": ("either", _cycle(np.nan, dtype=float)),
}
COLUMNS: dict[str, dict[str, tuple[str, Make]]] = {
    "batch": LEVELS,
    "label": LEVELS,
    "covariates": {
        "normal": ("accept", lambda rng, n: rng.normal(size=n)),
        "constant": ("accept", lambda rng, n: np.full(n, 1 / 3)),
        "tiny": ("either", lambda rng, n: rng.normal(size=n) * 1e-300),
        "huge": ("either", lambda rng, n: rng.normal(size=n) * 1e155),
        "largest": ("either", _cycle(1.7e308, -1.7e308, dtype=float)),
        "offset": ("either", lambda rng, n: 1e15 + rng.integers(0, 3, n)),
        "integers of pandas": ("accept", _array("Int64", 1, 3)),
        **{f"with {value}": ("reject", _one_of(value)) for value in (np.nan, np.inf, 1j)},
        "missing integers": ("reject", _array("Int64", 1, pd.NA)),
        "text": ("reject", _cycle("1", "2")),
        "dates": ("reject", lambda rng, n: pd.to_datetime(["2020-01-01"] * n)),
    },
    "size_factor": {
        "positive": ("accept", _one_of(1.0)),
        **{f"with {value}": ("reject", _one_of(value)) for value in (0.0, -1.0, np.nan, np.inf, 1j)},
        **{f"with {value}": ("either", _one_of(value)) for value in (1e-50, 5e-324, 1e50, 1e300)},
        "text": ("reject", _cycle("a")),
    },
}
OBSM: dict[str, dict[str, tuple[str, Make]]] = {
    "belief": {
        "weights": ("accept", _weights()),
        "a row of NaN": ("accept", _weights(_first(np.nan))),
        **{f"with {value}": ("reject", _weights(_first(value, 0))) for value in (np.nan, -0.1, np.inf)},
        "a row of zeros": ("reject", _weights(_first(0.0))),
        **{f"with {value}": ("either", _weights(_first(value))) for value in (1e-300, 1e300)},
        "sparse": ("either", _weights(sparse.csr_matrix)),
        "text": ("either", lambda rng, n: np.full((n, 2), "a")),
        "three axes": ("either", lambda rng, n: np.ones((n, 2, 2))),
        "no column": ("either", lambda rng, n: np.ones((n, 0))),
    },
    "spatial": {
        "places": ("accept", _places()),
        "one place": ("accept", lambda rng, n: np.ones((n, 2))),
        **{f"with {value}": ("reject", _places(_first(value, 0))) for value in (np.nan, np.inf)},
        "huge": ("either", _places(lambda places: places * 1e300)),
        "complex": ("either", _places(lambda places: places + 1j)),
        "sparse": ("either", _places(sparse.csr_matrix)),
        "text": ("either", lambda rng, n: np.full((n, 2), "a")),
        "no axis": ("either", lambda rng, n: np.ones((n, 0))),
        "three axes": ("either", lambda rng, n: np.ones((n, 2, 2))),
    },
}
