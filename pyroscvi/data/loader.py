"""Minibatches: rows are permuted once an epoch, a buffer at a time, and minibatches are consecutive slices of a buffer.

Counts in memory are permuted as a whole. Counts on disk are read in blocks of consecutive cells. Blocks come in random
order; a buffer holds many blocks, and its cells are shuffled. So a minibatch has cells of many blocks, and the disk is
read in long runs. Either way every cell comes once in an epoch, and the generator alone decides when.

Of W processes that share the minibatches, each takes every W-th cell of every minibatch and reads no others.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyroscvi.data import stored
from pyroscvi.data.predecessors import PATCH, patches, sections
from pyroscvi.data.rows import between, by_cell
from pyroscvi.data.stored import Stored

if TYPE_CHECKING:
    from pyroscvi.data.cells import Cells

ROWS = 8192  # rows of a sparse matrix in memory that are permuted at once, which limits the size of the copy
TILE = 32.0  # side of a piece of tissue that is read from disk at once, in typical distances to the nearest cell
STREAMS = 8  # parts of a buffer on disk whose cells take turns in a minibatch

C = TypeVar("C", bound="Cells")


def minibatches(
    cells: C, size: int, generator: torch.Generator | None, hops: int | None, start: int, rank: int = 0, world: int = 1
) -> Iterator[C]:
    """One pass over the cells, from minibatch ``start`` on: ``Cells.minibatches``."""
    n, counts = len(cells), cells.counts
    buffer = _buffer_size(n, size, counts.buffer if isinstance(counts, Stored) else ROWS)
    if generator is None:
        order = torch.arange(n)
    elif isinstance(counts, Stored):
        order = shuffled(n, stored.BLOCK_ROWS, buffer, size, generator)
    else:
        order = torch.randperm(n, generator=generator)
    if cells.before is not None and generator is not None:
        order = _patches(cells, PATCH, generator)
    if cells.graph is not None and isinstance(counts, Stored):
        if cells.before is None and cells.places is not None and generator is not None:
            tiles = _patches(cells, TILE, generator).split(buffer)
            order = torch.cat([tile[torch.randperm(len(tile), generator=generator)] for tile in tiles])
        parts, steps = order.split(buffer)[start * size // buffer :], start % (buffer // size)
        for taken in _ahead(lambda part: cells.take(part, hops), parts):
            for index in torch.arange(len(taken)).split(size)[steps:]:
                yield taken.take(index[rank::world], hops)
            steps = 0
        return
    if cells.graph is not None:
        for index in order.split(size)[start:]:
            yield cells.take(index[rank::world], hops)
        return
    if generator is None and not isinstance(counts, Stored) and world == 1:
        index, total = (order if cells.index is None else cells.index), (n if cells.total is None else cells.total)
        numbered = replace(cells, index=index, total=total)
        for first in range(start * size, n, size):
            yield _slice(numbered, slice(first, first + size))
        return
    _ = cells.library  # computed once for all minibatches
    own, steps = len(range(rank, size, world)), buffer // size
    parts = [torch.cat([index[rank::world] for index in part.split(size)]) for part in order.split(buffer)]
    parts, skipped = parts[start // steps :], start % steps * own
    for taken in _ahead(cells.take, parts) if isinstance(counts, Stored) else map(cells.take, parts):
        for first in range(skipped, len(taken), own):
            yield _slice(taken, slice(first, first + own))
        skipped = 0


def _patches(cells: "Cells", side: float, generator: torch.Generator) -> Tensor:
    """All cells in random order [n], patch by patch: ``patches``."""
    assert cells.places is not None
    joined = cells.graph if cells.before is None else cells.before
    assert joined is not None
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    n = len(cells)
    places, section = cells.places.double().cpu().numpy(), sections(joined)[:n]
    return torch.from_numpy(patches(places, section, rng, side))


def shuffled(n: int, block: int, buffer: int, size: int, generator: torch.Generator) -> Tensor:
    """The numbers below n in random order [n]: blocks of consecutive numbers are shuffled, then buffers of blocks."""
    blocks = torch.arange(n).split(block)
    order = torch.cat([blocks[i] for i in torch.randperm(len(blocks), generator=generator).tolist()])
    return torch.cat([_dealt(part, size, generator) for part in order.split(buffer)])


def _dealt(part: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A buffer in random order. The i-th cell of a minibatch comes from stream i mod STREAMS, which has its own blocks.

    So the cells of one of 2, 4 or 8 processes are of blocks that no other process reads, and the order does not depend
    on the number of processes.
    """
    stream = torch.arange(len(part)) % size % STREAMS
    places = torch.argsort(stream, stable=True).split(torch.bincount(stream).tolist())
    order, first = torch.empty_like(part), 0
    for place in places:
        own = part[first : first + len(place)]
        order[place] = own[torch.randperm(len(own), generator=generator)]
        first += len(own)
    return order


def _buffer_size(n: int, size: int, largest: int) -> int:
    """Cells in a buffer, about ``largest`` at most: whole minibatches, equally many in each buffer.

    Otherwise the last buffer could be small, and its minibatches would be of few blocks.
    """
    steps = ceil(n / size)
    return ceil(steps / max(ceil(steps * size / largest), 1)) * size or size


def _ahead(take: Callable[[Tensor], C], chunks: Sequence[Tensor]) -> Iterator[C]:
    """Each chunk, taken; a thread takes the next one meanwhile. A loop that stops early waits for that thread."""
    with ThreadPoolExecutor(1, "pyroscvi-reader") as reader:
        next_chunk = [reader.submit(take, chunk) for chunk in chunks[:1]]
        for following in [*chunks[1:], None]:
            taken = next_chunk.pop().result()
            if following is not None:
                next_chunk.append(reader.submit(take, following))
            yield taken


def _slice(cells: C, rows: slice) -> C:
    """Consecutive cells: views of the arrays of ``cells``."""
    piece = replace(cells, **by_cell(lambda values: between(values, rows), cells))
    if "library" in vars(cells):
        vars(piece)["library"] = cells.library[rows]
    return piece
