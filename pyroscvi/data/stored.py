"""Counts on disk: rows are read into memory, as CSR, when they are needed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import h5py
import numpy as np
from anndata.io import sparse_dataset
from scipy import sparse

from pyroscvi.data.matrices import select

ROWS = 4096  # read at once where everything is read
GAP = 32  # two runs of rows with at most so many between them are read as one: one long read is quicker than two
MAX_SLICES = 4  # runs that are read one by one; more of them are read by a mask
BLOCK_ROWS = 128  # consecutive cells that are read together
BUFFER = 16_384  # cells that are shuffled together: those of 128 blocks
VALUES = 2**25  # counts above zero in such a buffer, at most: 256 MB


def native(dtype: np.dtype) -> np.dtype:
    """The smallest type that holds the same numbers and is one of scipy's: no half precision, bytes in our order."""
    return np.promote_types(dtype, np.float32 if dtype.kind == "f" else np.bool_)


@dataclass(frozen=True, eq=False)
class Source:
    """A matrix of cells by genes in one file.

    matrix   an array on disk, or an anndata ``CSRDataset``, whose rows are read by slices or masks  [N, G]
    columns  the column of every gene to read, -1 where the file lacks it                            [g]
    place    the file and layer, for errors
    """

    matrix: Any
    columns: np.ndarray
    place: str = "the matrix"

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    def read(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Rows, in increasing order, as CSR in canonical form [len(rows), g]."""
        breaks = (np.diff(rows) > GAP) | (np.diff(rows // ROWS) > 0)
        runs = np.split(rows, np.flatnonzero(breaks) + 1)
        part = np.cumsum([run[-1] - run[0] + 1 for run in runs]) // (2 * BUFFER)
        _, firsts, lengths = np.unique(part, return_index=True, return_counts=True)
        try:
            return _under([self._runs(runs[i : i + n]) for i, n in zip(firsts, lengths, strict=True)])
        except OSError as error:  # of HDF5, which names no file
            file = getattr(getattr(self.matrix, "group", self.matrix), "file", None)
            whose = f"{self.place} of {file.filename}" if file else self.place
            raise OSError(f"{whose} cannot be read: {error}. The file is damaged: write it anew") from error

    def _runs(self, runs: Sequence[np.ndarray]) -> sparse.csr_matrix:
        """The rows of these runs; a run may have gaps, whose rows are read and then left out."""
        spans = [(int(run[0]), int(run[-1]) + 1) for run in runs]
        if len(spans) <= MAX_SLICES or not hasattr(self.matrix, "format"):
            pieces = [self.matrix[a:b] for a, b in spans]
            block = _under(pieces) if sparse.issparse(pieces[0]) else np.concatenate(pieces)
            block = block.astype(native(block.dtype), copy=False)
        else:  # anndata reads all spans of a sparse matrix at a time, by a mask
            covered = np.zeros(len(self), dtype=bool)
            for a, b in spans:
                covered[a:b] = True
            block = self.matrix[covered]
        starts = np.cumsum([0, *(b - a for a, b in spans)])
        if starts[-1] > sum(map(len, runs)):
            block = block[np.concatenate([run - a + s for run, (a, _), s in zip(runs, spans, starts, strict=False)])]
        return sparse.csr_matrix(select(block, self.columns, copy=False, place=self.place))

    def __getstate__(self) -> dict[str, Any]:
        """For another process: an HDF5 dataset becomes the names of its file and itself, to be opened again."""
        handle = getattr(self.matrix, "group", self.matrix)
        if not isinstance(handle, h5py.Dataset | h5py.Group):
            return dict(vars(self))
        state = {"columns": self.columns, "place": self.place}
        return state | {"file": handle.file.filename, "name": handle.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "file" in state:
            handle = h5py.File(state.pop("file"), "r")[state.pop("name")]
            state["matrix"] = sparse_dataset(handle) if isinstance(handle, h5py.Group) else handle
        vars(self).update(state)


@dataclass(frozen=True, eq=False)
class Stored:
    """Counts of cells on disk [n, g], of one file or of several laid end to end.

    rows      the row of each cell, numbered over all files               [n]
    totals    total count of each cell                                    [n]
    filled    number of genes with a count above zero in each cell        [n]
    largest   the largest count
    dtype     of the counts that are read
    per_gene  total count of each gene, known if these are all the cells  [g]
    checksum  of every count of the files, taken when they were opened
    """

    sources: tuple[Source, ...]
    rows: np.ndarray
    totals: np.ndarray
    filled: np.ndarray
    largest: float
    dtype: np.dtype
    per_gene: np.ndarray | None = None
    checksum: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.sources[0].columns)

    def __getitem__(self, index: np.ndarray) -> Self:
        """Some of these cells, still on disk; by their numbers or by a mask."""
        rows = {name: getattr(self, name)[index] for name in ("rows", "totals", "filled")}
        return replace(self, **rows, per_gene=None)

    def astype(self, dtype: Any, copy: bool = False) -> Self:
        """The same counts, to be read in another precision."""
        return replace(self, dtype=np.dtype(dtype))

    def read(self, index: np.ndarray | slice = slice(None)) -> sparse.csr_matrix:
        """Rows in memory, by their numbers, in any order."""
        rows, place = np.unique(self.rows[index], return_inverse=True)
        if not len(rows):
            return sparse.csr_matrix((0, self.shape[1]), dtype=self.dtype)
        block = _under([source.read(own) for source, own in _by_source(self.sources, rows)])
        if not np.array_equal(place, np.arange(len(rows))):
            block = block[place]
        return block.astype(self.dtype, copy=False)

    def blocks(self) -> Iterator[sparse.csr_matrix]:
        """All rows, in blocks of ``ROWS``."""
        for start in range(0, len(self.rows), ROWS):
            yield self.read(slice(start, start + ROWS))

    @property
    def buffer(self) -> int:
        """How many cells are shuffled in memory at a time."""
        each = self.filled.mean() if len(self.filled) else 1
        return int(min(BUFFER, max(VALUES / max(each, 1), BLOCK_ROWS)))

    @cached_property
    def genes(self) -> np.ndarray:
        """Total count of each gene [g]; reads all counts unless these are all the cells of the file."""
        if self.per_gene is not None:
            return self.per_gene
        return sum((sums(block) for block in self.blocks()), start=np.zeros(self.shape[1]))

    def __repr__(self) -> str:
        return f"Stored({self.shape[0]:,} x {self.shape[1]:,}, {len(self.sources)} files)"


def _by_source(sources: Sequence[Source], rows: np.ndarray) -> Iterator[tuple[Source, np.ndarray]]:
    """Every source that has some of these increasing rows, with its rows, counted from its own first row."""
    first = 0
    for source in sources:
        own = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + len(source))] - first
        first += len(source)
        if len(own):
            yield source, own


def _under(blocks: Sequence[sparse.csr_matrix]) -> sparse.csr_matrix:
    """Blocks of rows as one matrix."""
    return blocks[0] if len(blocks) == 1 else sparse.vstack(blocks, format="csr")


def sums(block: sparse.csr_matrix) -> np.ndarray:
    """Total count of each gene, in double precision [g]."""
    return np.bincount(block.indices, weights=block.data, minlength=block.shape[1])
