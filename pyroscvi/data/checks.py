"""Checks of counts: every value is looked at, and an error says which one is wrong and what to do about it."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from anndata import AnnData

from pyroscvi.advice import either, field, option
from pyroscvi.data.matrices import Matrix, blocks, check_indices, gather
from pyroscvi.data.stored import Stored
from pyroscvi.names import listed

LARGEST_VALUE = 1e18  # squares of values are computed in single precision, which goes up to 3e38
VALUES_AT_ONCE = 1 << 22  # values looked at at once, so that a scan needs little memory beside the data


def counts_of(adata: AnnData, layer: str | None, columns: np.ndarray, genes: Sequence[str]) -> Matrix:
    """These columns of a layer (None: of X), in memory, every value of them checked."""
    source, place = source_of(adata, layer)
    counts = gather(source, columns, place)
    tally = Tally()
    tally.look(counts)
    tally.check(adata.obs_names, genes, place, lambda: remedy(adata))
    return counts


def values_of(adata: AnnData, layer: str | None, columns: np.ndarray, genes: Sequence[str]) -> Matrix:
    """The same for values that are not counts: real numbers, every one of them finite, in single precision."""
    source, place = source_of(adata, layer)
    values = gather(source, columns, place)
    stored = values.reshape(-1) if isinstance(values, np.ndarray) else values.data
    if stored.dtype.kind not in "buif":
        raise TypeError(f"{place} holds values of type {stored.dtype}, which are not real numbers")
    if not (right := np.abs(stored) <= LARGEST_VALUE).all():
        first = int((~right).argmax())
        row, column = _position(values, first)
        raise ValueError(
            f"{place} must hold numbers that single precision holds: {(~right).sum():,} of {len(right):,} do not, the "
            f"first is {stored[first]}, of gene {genes[column]!r} in cell {adata.obs_names[row]!r}"
        )
    return values.astype(np.float32)


def source_of(adata: AnnData, layer: str | None) -> tuple[Any, str]:
    """A layer (None: X), wherever it lies, and its name in errors."""
    if layer is not None and layer not in adata.layers:
        layers = f"its layers are {listed(names)}" if (names := layer_names(adata)) else "it has no layers"
        instead = either("counts=None reads X", "without --counts, X is read")
        raise KeyError(f"there is no layer {layer!r}: {layers}; {instead}")
    place = "X" if layer is None else f"layer {layer!r}"
    source = _at(adata, layer, place)
    if source is None:
        raise ValueError(f"{place} is empty. {remedy(adata)}")
    return source, place


class Tally:
    """Counts the wrong values of a matrix, which is looked at block after block."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.first: tuple[Any, int, int] | None = None  # the first wrong value, its row and its column
        self.not_numbers: np.dtype | None = None  # the type of values that are not real numbers
        self.largest = 0

    def look(self, matrix: Matrix, row: int = 0) -> None:
        """Look at every value of a block, whose first row is ``row`` of the whole matrix."""
        values = matrix.reshape(-1) if isinstance(matrix, np.ndarray) else matrix.data
        if values.dtype.kind not in "buif":
            self.not_numbers = values.dtype
            return
        for start in range(0, len(values), VALUES_AT_ONCE):
            piece = values[start : start + VALUES_AT_ONCE]
            bad = ~_are_counts(piece)
            if not bad.any():
                self.largest = max(self.largest, int(piece.max(initial=0)))
                continue
            if self.first is None:
                flat = start + int(bad.argmax())
                row_in_block, column = _position(matrix, flat)
                self.first = values[flat], row + row_in_block, column
            self.kinds.update(_kinds(piece[bad]))

    def check(self, cells: Sequence[str], genes: Sequence[str], place: str, remedy: Callable[[], str]) -> None:
        """Raise if any value was wrong, with the number of wrong values and the place of the first.

        place   where the matrix comes from, as the error names it
        remedy  called for a sentence on what to do instead, once it is needed
        """
        if self.not_numbers is not None:
            raise TypeError(f"{place} holds values of type {self.not_numbers}, which are not counts. {remedy()}")
        if self.first is not None:
            value, row, column = self.first
            tally = ", ".join(f"{number:,} {kind}" for kind, number in self.kinds.items() if number)
            raise ValueError(
                f"{place} holds values that are not counts: {tally}. The first is {value}, "
                f"of gene {genes[column]!r} in cell {cells[row]!r}. {remedy()}"
            )


def check_cells(matrix: Matrix | Stored, cells: Sequence[str], empty: str) -> np.ndarray:
    """Which cells have counts [n]. Raises ValueError if a cell has none, or warns if ``empty="drop"``."""
    filled = _any(matrix, axis=1)
    if filled.all():
        return filled
    which = f"{(~filled).sum():,} of {len(filled):,} cells have no counts: {listed(np.asarray(cells)[~filled])}"
    if empty != "drop":
        raise ValueError(f"{which}. Leave them out before reading, or read with {option('empty', 'drop')}")
    if not filled.any():
        raise ValueError(f"{which}. No cell is left")
    remedy = either(": cells.names are the names of the others", "")
    warnings.warn(f"{which}. They are dropped{remedy}", UserWarning, stacklevel=4)
    return filled


def check_genes(matrix: Matrix | Stored, genes: Sequence[str]) -> None:
    """Warn, once, about genes that have no count in any cell."""
    seen = _any(matrix, axis=0)
    if not seen.all():
        which = listed(np.asarray(genes)[~seen])
        message = f"{(~seen).sum():,} of {len(seen):,} genes have no count in any cell; they are kept: {which}"
        warnings.warn(message, UserWarning, stacklevel=4)


def check_numbers(values: np.ndarray, cells: Sequence[str], place: str, wanted: str, good: np.ndarray) -> None:
    """Raise ValueError unless all values [n] or [n, c] are ``good``: how many are not, and the cell of the first."""
    bad = ~good
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{place} must be {wanted}: {bad.sum():,} of {bad.size:,} values are not, "
            f"the first is {values[first]} in cell {cells[first[0]]!r}"
        )


def precision(matrix: Matrix | Stored) -> type:
    """The floating type that holds these counts exactly: float32 up to 2^24, float64 up to 2^53."""
    largest = int(matrix.largest if isinstance(matrix, Stored) else matrix.max())
    if largest > 2**53:
        raise ValueError(f"a count of {largest} is more than float64 holds exactly (2^53)")
    return np.float32 if largest <= 2**24 else np.float64


def remedy(adata: AnnData) -> str:
    """Where else in this AnnData counts are: every layer, X and raw are scanned in full."""
    layers = [name for name in layer_names(adata) if holds_counts(adata, name)]
    fields = [f"with {field('counts', name)}" for name in layers]
    if holds_counts(adata, None):
        layers, fields = ["X", *layers], [either("with Fields(counts=None)", "without --counts"), *fields]
    if fields:
        return f"There are counts in {listed(layers)}: read them {' or '.join(fields)}."
    if adata.raw is not None and are_all_counts(adata.raw.X):
        instead = either("read adata.raw.to_adata()", "give a file of adata.raw.to_adata()")
        return f"There are counts in raw: {instead} instead."
    return (
        "No other layer holds counts, nor does raw: these models explain the counts themselves, as they are before any "
        "normalisation, logarithm or scaling."
    )


def layer_names(adata: AnnData) -> list[str]:
    return [name for name in adata.layers if name is not None]  # from anndata 0.13 on, X is the layer None


def _at(adata: AnnData, layer: str | None, place: str) -> Any:
    """X or a layer. Rows of a damaged matrix must not be picked, and a view picks them: its parent is checked first."""
    parent = getattr(adata, "_adata_ref", None)  # anndata has no public name for it
    if parent is not None:
        matrix = parent.X if layer is None else parent.layers[layer]
        check_indices(matrix, place)
    return adata.X if layer is None else adata.layers[layer]


def holds_counts(adata: AnnData, layer: str | None) -> bool:
    try:
        return are_all_counts(_at(adata, layer, ""))
    except (TypeError, ValueError):  # a damaged matrix, or no matrix at all
        return False


def are_all_counts(source: Any) -> bool:
    """Whether all values are counts, and some are above zero."""
    tally = Tally()
    for block in () if source is None else blocks(source):
        tally.look(block)
        if tally.first is not None or tally.not_numbers is not None:
            return False
    return tally.largest > 0


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
    return (matrix != 0).any(axis) if isinstance(matrix, np.ndarray) else matrix.getnnz(axis) > 0
