"""Odd inputs for Fields.read: a small AnnData of counts, and one to three changes of it, each of another kind."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from .columns import COLUMNS, OBSM

__all__ = ["CHANGES", "Input", "made"]


@dataclass
class Input:
    """The makings of an AnnData and of a call of Fields(...).read(...).

    expected   "accept", "reject" or "either"
    corrupt    what is done to the sparse matrix once it is made
    fragile    may end the process where it is not refused
    """

    rng: np.random.Generator
    counts: np.ndarray
    changes: list[str] = field(default_factory=list)
    expected: str = "accept"
    dtype: str = "f4"
    form: str = "csr_matrix"
    corrupt: Callable[[Any], Any] | None = None
    fragile: bool = False
    names: tuple[list, list] | None = None
    obs: dict[str, Any] = field(default_factory=dict)
    obsm: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def matrix(self) -> Any:
        with np.errstate(all="ignore"):
            dense = self.counts.astype(self.dtype)
        if self.form in ("asarray", "asfortranarray"):
            return getattr(np, self.form)(dense)
        matrix = getattr(sparse, self.form)(dense)
        return matrix if self.corrupt is None else self.corrupt(matrix)

    def adata(self) -> AnnData:
        n, g = self.counts.shape
        cells, genes = self.names or ([f"cell{i}" for i in range(n)], [f"gene{i}" for i in range(g)])
        obs = pd.DataFrame(self.obs, index=pd.Index(cells))
        return AnnData(self.matrix(), obs=obs, var=pd.DataFrame(index=pd.Index(genes)), obsm=self.obsm)


def _value(value: float, dtype: str = "f8") -> Callable[[Input], None]:
    def change(made: Input) -> None:
        made.counts[tuple(made.rng.integers(made.counts.shape))] = value
        made.dtype = dtype

    return change


def _form(form: str, dtype: str | None = None) -> Callable[[Input], None]:
    def change(made: Input) -> None:
        made.form, made.dtype = form, dtype or made.dtype
        if np.dtype(made.dtype).kind in "bui":
            made.counts = np.where(np.isfinite(made.counts), np.clip(made.counts, 0, 100), 0)

    return change


def _broken(corrupt: Callable[[Any], Any], form: str) -> Callable[[Input], None]:
    def change(made: Input) -> None:
        made.form, made.corrupt, made.fragile = form, corrupt, True

    return change


def _at(array: str, place: int, value: int) -> Callable[[Any], Any]:
    def corrupt(matrix: Any) -> Any:
        getattr(matrix, array)[place] = value
        return matrix

    return corrupt


def _reversed(matrix: Any) -> Any:
    """The same matrix, with unsorted indices."""
    for start, end in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        for array in (matrix.indices, matrix.data):
            array[start:end] = array[start:end][::-1].copy()
    matrix.has_sorted_indices = False
    return matrix


def _row(value: float) -> Callable[[Input], None]:
    return lambda made: made.counts.__setitem__(int(made.rng.integers(len(made.counts))), value)


def _names(cells: Callable[[int], Any], genes: Callable[[int], Any]) -> Callable[[Input], None]:
    def change(made: Input) -> None:
        n, g = made.counts.shape
        made.names = [cells(i) for i in range(n)], [genes(i) for i in range(g)]

    return change


def _column(kind: str, name: str) -> Callable[[Input], None]:
    def change(made: Input) -> None:
        values = (COLUMNS | OBSM)[kind][name][1](made.rng, len(made.counts))
        where = made.obs if kind in COLUMNS else made.obsm
        where[kind] = values
        made.fields[kind] = (kind,) if kind in ("categories", "covariates") else kind

    return change


def _wanted(**fields: Any) -> Callable[[Input], None]:
    return lambda made: made.fields.update(fields)


# Name: (kinds, what is expected, the change). Of one kind, an input has one change.
CHANGES: dict[str, tuple[str, str, Callable[[Input], None]]] = {
    **{f"a count of {v}": ("value", "reject", _value(v)) for v in (-1.0, np.nan, np.inf, -np.inf, 0.5, 1e-300, 1e300)},
    **{f"a count of {v:g}": ("value", "accept", _value(v)) for v in (-0.0, 2.0**24 + 1, 2.0**31 + 1, 2.0**53)},
    "a count of 2^60": ("value", "reject", _value(2.0**60, "i8")),
    "no counts at all": ("shape", "reject", lambda made: made.counts.__imul__(0)),
    "an empty cell": ("shape", "reject", _row(0)),
    "one cell": ("shape", "accept", lambda made: setattr(made, "counts", made.counts[:1])),
    "no cell": ("shape", "reject", lambda made: setattr(made, "counts", made.counts[:0])),
    "no gene": ("shape", "reject", lambda made: setattr(made, "counts", made.counts[:, :0])),
    **{
        f"as {form}": ("form", "accept", _form(form))
        for form in ("csc_matrix", "csr_array", "asarray", "asfortranarray")
    },
    **{
        f"as {form}": ("form", "either", _form(form))
        for form in ("coo_matrix", "lil_matrix", "bsr_matrix", "dia_matrix")
    },
    **{
        f"of type {t}": ("value form", "either", _form("asarray", t))
        for t in ("f2", "i1", "u8", "?", ">f4", "longdouble")
    },
    **{f"of type {t}": ("value form", "reject", _form("asarray", t)) for t in ("U8", "c16")},
    "unsorted indices": ("form", "accept", _broken(_reversed, "csr_matrix")),
    **{
        f"{array}[{place}] = {value} in {form}": ("form", "reject", _broken(_at(array, place, value), form))
        for form in ("csr_matrix", "csc_matrix")
        for array, place, value in (
            ("indices", 0, -1),
            ("indices", -1, 10**6),
            ("indices", -1, 2**31 - 2),
            ("indptr", 1, 10**6),
            ("indptr", 1, -1),
            ("indptr", 0, 2),
        )
    },
    "cells of one name": ("names", "either", _names(lambda i: "cell", lambda i: f"gene{i}")),
    "genes of one name": ("names", "either", _names(lambda i: f"cell{i}", lambda i: "gene")),
    "numbers for names": ("names", "accept", _names(lambda i: str(i), lambda i: str(i))),
    "odd names": ("names", "accept", _names(lambda i: f"細胞\x1b[31m{i}", lambda i: f"[/red]<b>$x^$ {i}")),
    "no such layer": ("fields", "reject", _wanted(counts="nosuch")),
    "no such gene": ("fields", "reject", _wanted(genes=("nosuch",))),
    "an unknown option": ("options", "reject", lambda made: made.options.update(unknown="perhaps")),
    **{
        f"{kind}: {name}": (kind, expected, _column(kind, name))
        for kind, table in (COLUMNS | OBSM).items()
        for name, (expected, _) in table.items()
    },
}


def made(seed: int) -> Input:
    """The input of a seed; the first seeds take one change each, in their order."""
    rng = np.random.default_rng(seed)
    n, g = int(rng.integers(3, 25)), int(rng.integers(2, 15))
    counts = rng.poisson(rng.gamma(1.0, 2.0, (n, g))).astype(np.float64)
    counts[counts.sum(1) == 0, 0] = 1
    one = Input(rng, counts)
    every = list(CHANGES)
    chosen = [every[seed]] if seed < len(every) else list(rng.choice(every, int(rng.integers(1, 4)), replace=False))
    kinds: set[str] = set()
    for name in sorted(chosen, key=lambda name: CHANGES[name][0] != "shape"):  # the number of cells comes first
        kind, expected, change = CHANGES[name]
        if kinds & {*kind.split()} or (kinds and not one.counts.size):
            continue
        kinds.update(kind.split())
        change(one)
        one.changes.append(str(name))
        if {"label", "belief"} <= one.fields.keys():  # the columns of belief must be the labels
            expected = max("either", expected)
        one.expected = max(one.expected, expected)  # "accept" < "either" < "reject", as in the alphabet
    return one
