"""Counts on disk: rows come into memory, as CSR, when somebody asks for them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import h5py
import numpy as np
from anndata.io import sparse_dataset
from scipy import sparse

from pyroscvi.data.matrices import select

__all__ = ["Source", "Stored"]

ROWS = 4096  # read at once where everything is read
GAP = 32  # rows that nobody asked for are read along where they are fewer: one long read is quicker than two
FEW = 4  # stretches that are read one by one, rather than by a mask
BLOCK = 128  # consecutive cells that are read together
BUFFER = 16_384  # cells that are shuffled together: those of 128 blocks
VALUES = 2**25  # counts above zero in such a buffer, at most: 256 MB


@dataclass(frozen=True, eq=False)
class Source:
    """A matrix of cells by genes in one file.

    matrix   what lies there: rows by slices, and by masks where it is an anndata ``CSRDataset``  [N, G]
    columns  the column of every gene that is wanted, -1 where there is none                       [g]
    """

    matrix: Any
    columns: np.ndarray

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    def read(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Rows, in increasing order, as CSR in canonical form [len(rows), g]."""
        breaks = (np.diff(rows) > GAP) | (np.diff(rows // ROWS) > 0)
        runs = np.split(rows, np.flatnonzero(breaks) + 1)
        room = np.cumsum([run[-1] - run[0] + 1 for run in runs]) // (2 * BUFFER)
        parts = [
            runs[i : i + n] for i, n in zip(*np.unique(room, return_index=True, return_counts=True)[1:], strict=True)
        ]
        return _under([self._runs(part) for part in parts])

    def _runs(self, runs: Sequence[np.ndarray]) -> sparse.csr_matrix:
        """Runs of rows, with gaps within: they are read along."""
        spans = [(int(run[0]), int(run[-1]) + 1) for run in runs]
        if len(spans) <= FEW or not hasattr(self.matrix, "format"):
            read = [self.matrix[a:b] for a, b in spans]
            found = _under(read) if sparse.issparse(read[0]) else np.concatenate(read)
        else:  # anndata reads all spans of a sparse matrix at a time, by a mask
            covered = np.zeros(len(self), dtype=bool)
            for a, b in spans:
                covered[a:b] = True
            found = self.matrix[covered]
        starts = np.cumsum([0, *(b - a for a, b in spans)])
        if starts[-1] > sum(map(len, runs)):
            found = found[np.concatenate([run - a + s for run, (a, _), s in zip(runs, spans, starts, strict=False)])]
        return sparse.csr_matrix(select(found, self.columns, copy=False))

    def __getstate__(self) -> dict[str, Any]:
        """For another process: a place in an HDF5 file is told by its names, and opened there once more."""
        handle = getattr(self.matrix, "group", self.matrix)
        if not isinstance(handle, h5py.Dataset | h5py.Group):
            return dict(vars(self))
        return {"columns": self.columns, "file": handle.file.filename, "name": handle.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "file" in state:
            handle = h5py.File(state.pop("file"), "r")[state.pop("name")]
            state["matrix"] = sparse_dataset(handle) if isinstance(handle, h5py.Group) else handle
        vars(self).update(state)


@dataclass(frozen=True, eq=False)
class Stored:
    """Counts of cells on disk [n, g], of one file or of several laid end to end.

    rows     where each cell lies, counted over all files                [n]
    totals   counts of each cell                                         [n]
    filled   counts above zero of each cell                              [n]
    largest  the largest count
    dtype    in which counts are read
    seen     counts of each gene, if these are all the cells there are   [g]
    """

    sources: tuple[Source, ...]
    rows: np.ndarray
    totals: np.ndarray
    filled: np.ndarray
    largest: float
    dtype: np.dtype
    seen: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.sources[0].columns)

    def __getitem__(self, index: np.ndarray) -> Self:
        """Some of these cells, still on disk; by their numbers or by a mask."""
        told = {name: getattr(self, name)[index] for name in ("rows", "totals", "filled")}
        return replace(self, **told, seen=None)

    def astype(self, dtype: Any, copy: bool = False) -> Self:
        """The same counts, to be read in another precision."""
        return replace(self, dtype=np.dtype(dtype))

    def read(self, index: np.ndarray | slice = slice(None)) -> sparse.csr_matrix:
        """Rows in memory, by their numbers, in any order."""
        rows, place = np.unique(self.rows[index], return_inverse=True)
        if not len(rows):
            return sparse.csr_matrix((0, self.shape[1]), dtype=self.dtype)
        found = _under([source.read(own) for source, own in _shared(self.sources, rows)])
        if not np.array_equal(place, np.arange(len(rows))):
            found = found[place]
        return found.astype(self.dtype, copy=False)

    @property
    def steps(self) -> int:
        return -(-len(self.rows) // ROWS)

    def blocks(self) -> Iterator[sparse.csr_matrix]:
        """All rows, in so many steps."""
        for start in range(0, len(self.rows), ROWS):
            yield self.read(slice(start, start + ROWS))

    @property
    def buffer(self) -> int:
        """How many cells can be in memory, for the sake of shuffling them."""
        each = self.filled.mean() if len(self.filled) else 1
        return int(min(BUFFER, max(VALUES / max(each, 1), BLOCK)))

    @cached_property
    def genes(self) -> np.ndarray:
        """Counts of each gene [g]: a pass over the file where these are a part of its cells."""
        if self.seen is not None:
            return self.seen
        return sum((_sums(block) for block in self.blocks()), start=np.zeros(self.shape[1]))

    def __repr__(self) -> str:
        return f"Stored({self.shape[0]:,} x {self.shape[1]:,}, {len(self.sources)} files)"


def _shared(sources: Sequence[Source], rows: np.ndarray) -> Iterator[tuple[Source, np.ndarray]]:
    """Which of these rows, in increasing order, are of which source, counted from its first."""
    first = 0
    for source in sources:
        own = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + len(source))] - first
        first += len(source)
        if len(own):
            yield source, own


def _under(blocks: Sequence[sparse.csr_matrix]) -> sparse.csr_matrix:
    """One block under the other."""
    return blocks[0] if len(blocks) == 1 else sparse.vstack(blocks, format="csr")


def _sums(block: sparse.csr_matrix) -> np.ndarray:
    return np.bincount(block.indices, weights=block.data, minlength=block.shape[1])
