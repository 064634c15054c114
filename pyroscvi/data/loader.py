"""Minibatches: rows are permuted once an epoch, a buffer at a time, and handed out as contiguous slices of it.

Counts in memory are permuted as a whole. Counts on disk are read in blocks of consecutive cells that come in random
order, many of them into a buffer, and are shuffled there: a minibatch then holds cells of many blocks, and the disk is
read in long stretches. Either way every cell comes once an epoch, and the generator alone says when.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, TypeVar

import torch
from scipy import sparse
from torch import Tensor

from pyroscvi.data import stored
from pyroscvi.data.stored import Stored

if TYPE_CHECKING:
    from pyroscvi.data.cells import Cells

__all__ = ["minibatches", "shuffled"]

ROWS = 8192  # of a sparse matrix in memory that are permuted at once, which bounds the copy

C = TypeVar("C", bound="Cells")


def minibatches(cells: C, size: int, generator: torch.Generator | None, hops: int | None, start: int) -> Iterator[C]:
    """One pass over the cells, from minibatch ``start`` on: ``Cells.minibatches``."""
    n, counts = len(cells), cells.counts
    room = counts.buffer if isinstance(counts, Stored) else ROWS
    buffer = _even(n, size, room)
    if generator is None:
        order = torch.arange(n)
    elif isinstance(counts, Stored):
        order = shuffled(n, stored.BLOCK, buffer, generator)
    else:
        order = torch.randperm(n, generator=generator)
    if cells.graph is not None or isinstance(counts, Tensor):
        for index in order.split(size)[start:]:
            yield cells.take(index, hops)
        return
    if generator is None and not isinstance(counts, Stored):
        index, total = (order if cells.index is None else cells.index), (n if cells.total is None else cells.total)
        as_they_stand = replace(cells, index=index, total=total)
        for first in range(start * size, n, size):
            yield _slice(as_they_stand, slice(first, first + size))
        return
    _ = cells.library  # once for all of them
    done = start * size % buffer
    chunks = order.split(buffer)[start * size // buffer :]
    for taken in _ahead(cells.take, chunks) if isinstance(counts, Stored) else map(cells.take, chunks):
        for first in range(done, len(taken), size):
            yield _slice(taken, slice(first, first + size))
        done = 0


def shuffled(n: int, block: int, buffer: int, generator: torch.Generator) -> Tensor:
    """The numbers up to n [n]: blocks of consecutive ones in random order, those of a buffer in any order."""
    blocks = torch.arange(n).split(block)
    order = torch.cat([blocks[i] for i in torch.randperm(len(blocks), generator=generator).tolist()])
    return torch.cat([part[torch.randperm(len(part), generator=generator)] for part in order.split(buffer)])


def _even(n: int, size: int, room: int) -> int:
    """Cells in a buffer: whole minibatches, and as many in each, so that none at the end is filled from few blocks."""
    steps = ceil(n / size)
    return ceil(steps / max(ceil(steps * size / room), 1)) * size or size


def _ahead(take: Callable[[Tensor], C], chunks: Sequence[Tensor]) -> Iterator[C]:
    """Each chunk as it is taken, the next one by a thread meanwhile. Whoever stops early waits for that one to end."""
    with ThreadPoolExecutor(1, "pyroscvi-reader") as reader:
        coming = [reader.submit(take, chunk) for chunk in chunks[:1]]
        for following in [*chunks[1:], None]:
            taken = coming.pop().result()
            if following is not None:
                coming.append(reader.submit(take, following))
            yield taken


def _slice(cells: C, rows: slice) -> C:
    """Consecutive cells: views of what they were taken from."""

    def at(t: Tensor | None) -> Tensor | None:
        return None if t is None else t[rows]

    piece = replace(
        cells,
        counts=_between(cells.counts, rows),
        categories={name: codes[rows] for name, codes in cells.categories.items()},
        covariates=at(cells.covariates),
        belief=at(cells.belief),
        size_factor=at(cells.size_factor),
        names=None if cells.names is None else cells.names[rows],
        index=at(cells.index),
    )
    if "library" in vars(cells):
        vars(piece)["library"] = cells.library[rows]
    return piece


def _between(counts: sparse.csr_matrix, rows: slice) -> sparse.csr_matrix:
    """Consecutive rows without a copy, which scipy would make."""
    crow = counts.indptr[rows.start : rows.stop + 1]
    own = slice(crow[0], crow[-1])
    return sparse.csr_matrix((counts.data[own], counts.indices[own], crow - crow[0]), (len(crow) - 1, counts.shape[1]))
