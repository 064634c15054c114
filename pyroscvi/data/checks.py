"""Checks: counts are counts. Every value is looked at, and an error says which one is wrong and what to do about it."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from anndata import AnnData

from pyroscvi.data.matrices import Matrix, blocks, gather
from pyroscvi.data.stored import Stored

__all__ = [
    "Tally",
    "check_cells",
    "check_counts",
    "check_genes",
    "check_numbers",
    "counts_of",
    "listed",
    "precision",
    "remedy",
    "source_of",
]

BLOCK = 1 << 22  # values looked at at once, so that a scan needs little memory beside the data


def counts_of(adata: AnnData, layer: str | None, columns: np.ndarray, genes: Sequence[str]) -> Matrix:
    """These columns of a layer (None: of X), in memory, every value of them checked."""
    source, place = source_of(adata, layer)
    counts = gather(source, columns)
    check_counts(counts, adata.obs_names, genes, place, lambda: remedy(adata))
    return counts


def source_of(adata: AnnData, layer: str | None) -> tuple[Any, str]:
    """A layer (None: X), wherever it lies, and what errors call it."""
    if layer is not None and layer not in adata.layers:
        raise KeyError(f"there is no layer {layer!r}; there are {listed(adata.layers) or 'none'}, and X (counts=None)")
    source = _at(adata, layer)
    place = "X" if layer is None else f"layer {layer!r}"
    if source is None:
        raise ValueError(f"{place} is empty. {remedy(adata)}")
    return source, place


def check_counts(
    matrix: Matrix, cells: Sequence[str], genes: Sequence[str], place: str, remedy: Callable[[], str]
) -> None:
    """Raise unless every value is a count: finite, whole and not negative.

    place   where the matrix comes from, as the error says it
    remedy  called for a sentence on what to do instead, once it is needed
    """
    tally = Tally()
    tally.look(matrix)
    tally.check(cells, genes, place, remedy)


class Tally:
    """What is wrong with values, over all the blocks of a matrix that are looked at one after the other."""

    def __init__(self) -> None:
        self.kinds: dict[str, int] = {}
        self.first: tuple[Any, int, int] | None = None  # a value, its row and its column
        self.strange: np.dtype | None = None  # a type that is none of numbers
        self.largest = 0

    def look(self, matrix: Matrix, row: int = 0) -> None:
        """Every value of a block whose first row is ``row`` of the whole."""
        values = _values(matrix)
        if values.dtype.kind not in "buif":
            self.strange = values.dtype
            return
        for start, some in _blocks(values):
            bad = ~_are_counts(some)
            if not bad.any():
                self.largest = max(self.largest, int(some.max(initial=0)))
                continue
            if self.first is None:
                flat = start + int(bad.argmax())
                here, column = _position(matrix, flat)
                self.first = values[flat], row + here, column
            for kind, found in _kinds(some[bad]).items():
                self.kinds[kind] = self.kinds.get(kind, 0) + found

    def check(self, cells: Sequence[str], genes: Sequence[str], place: str, remedy: Callable[[], str]) -> None:
        """Raise if anything was wrong, with how much of it there is and where it is first."""
        if self.strange is not None:
            raise TypeError(f"{place} holds values of type {self.strange}, which are no counts. {remedy()}")
        if self.first is not None:
            value, row, column = self.first
            tally = ", ".join(f"{found:,} {kind}" for kind, found in self.kinds.items() if found)
            raise ValueError(
                f"{place} holds values that are no counts: {tally}. The first is {value}, "
                f"of gene {genes[column]!r} in cell {cells[row]!r}. {remedy()}"
            )


def check_cells(matrix: Matrix | Stored, cells: Sequence[str], empty: str) -> np.ndarray:
    """Which cells have counts [n]. Raises where one has none, or warns where ``empty="drop"``."""
    filled = _any(matrix, axis=1)
    if filled.all():
        return filled
    named = f"{(~filled).sum():,} of {len(filled):,} cells have no counts: {listed(np.asarray(cells)[~filled])}"
    if empty != "drop":
        raise ValueError(f"{named}. Leave them out before reading, or by read(..., empty='drop')")
    if not filled.any():
        raise ValueError(f"{named}. No cell is left")
    warnings.warn(f"{named}. They are dropped: the rows left are cells.names", UserWarning, stacklevel=4)
    return filled


def check_genes(matrix: Matrix | Stored, genes: Sequence[str]) -> None:
    """Warn, once, of genes that no cell has a count of."""
    seen = _any(matrix, axis=0)
    if not seen.all():
        named = listed(np.asarray(genes)[~seen])
        message = f"{(~seen).sum():,} of {len(seen):,} genes have no count in any cell; they are kept: {named}"
        warnings.warn(message, UserWarning, stacklevel=4)


def check_numbers(values: np.ndarray, cells: Sequence[str], place: str, wanted: str, good: np.ndarray) -> None:
    """Raise unless all values [n] or [n, c] are ``good``: with how many are not, and the first by its cell."""
    bad = ~good
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{place} must be {wanted}: {bad.sum():,} of {bad.size:,} values are not, "
            f"the first is {values[first]} in cell {cells[first[0]]!r}"
        )


def precision(matrix: Matrix | Stored) -> type:
    """The floating type that holds these counts exactly: float32 up to 2^24, float64 up to 2^53."""
    if isinstance(matrix, Stored):
        largest = int(matrix.largest)
    else:
        largest = max((int(values.max()) for _, values in _blocks(_values(matrix))), default=0)
    if largest > 2**53:
        raise ValueError(f"a count of {largest} is more than float64 holds exactly (2^53)")
    return np.float32 if largest <= 2**24 else np.float64


def listed(names: Iterable[Any], most: int = 10) -> str:
    """The first few names, and how many more there are."""
    names = [str(name) for name in names]
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def remedy(adata: AnnData) -> str:
    """Where else in this AnnData counts are: every layer, X and raw are scanned in full."""
    found = [place for place in (None, *adata.layers) if _holds_counts(_at(adata, place))]
    if found:
        named = " or ".join(f"Fields(counts={place!r})" for place in found)
        what = listed(["X" if place is None else place for place in found])
        return f"There are counts in {what}: say {named}."
    if adata.raw is not None and _holds_counts(adata.raw.X):
        return "There are counts in raw: read adata.raw.to_adata() instead."
    return (
        "No other layer holds counts, nor does raw: these models explain the counts themselves, as they are before any "
        "normalisation, logarithm or scaling."
    )


def _at(adata: AnnData, place: str | None) -> Any:
    return adata.X if place is None else adata.layers[place]


def _holds_counts(source: Any) -> bool:
    if source is None:
        return False
    tally, some = Tally(), False
    for block in blocks(source):
        tally.look(block)
        if tally.first is not None or tally.strange is not None:
            return False
        some = some or bool(_values(block).any())
    return some


def _values(matrix: Matrix) -> np.ndarray:
    return matrix.reshape(-1) if isinstance(matrix, np.ndarray) else matrix.data


def _blocks(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(values), BLOCK):
        yield start, values[start : start + BLOCK]


def _are_counts(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "bui":
        return values >= 0
    return (values >= 0) & (values < np.inf) & (np.floor(values) == values)


def _kinds(values: np.ndarray) -> dict[str, int]:
    """How many of these values are wrong in which way; each is counted once."""
    nan, infinite, negative = np.isnan(values), np.isinf(values), values < 0
    return {
        "NaN": int(nan.sum()),
        "infinite": int(infinite.sum()),
        "negative": int((negative & ~infinite).sum()),
        "fractional": int((~nan & ~infinite & ~negative).sum()),
    }


def _position(matrix: Matrix, flat: int) -> tuple[int, int]:
    """Row and column of a stored value."""
    if isinstance(matrix, np.ndarray):
        return divmod(flat, matrix.shape[1])
    return int(np.searchsorted(matrix.indptr, flat, side="right")) - 1, int(matrix.indices[flat])


def _any(matrix: Matrix | Stored, axis: int) -> np.ndarray:
    if isinstance(matrix, Stored):
        return (matrix.totals if axis == 1 else matrix.genes) > 0
    if isinstance(matrix, np.ndarray):
        return (matrix != 0).any(axis)
    if axis == 1:
        return np.diff(matrix.indptr) > 0
    seen = np.zeros(matrix.shape[1], dtype=bool)
    seen[matrix.indices] = True
    return seen
