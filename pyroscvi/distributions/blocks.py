"""Cut a batch of count vectors into blocks that fit into the cache of a processor."""

from collections.abc import Iterator
from itertools import product

from torch import Size, device

# Counts in a block: one megabyte of float32 on a processor. More on an accelerator, where each call costs time.
ON_PROCESSOR, ON_ACCELERATOR = 2**18, 2**26


def blocks(shape: Size, device: device) -> Iterator[tuple[slice, ...]]:
    """Yields slices of the leading axes of ``shape`` [..., g]: whole cells, contiguous in a contiguous tensor."""
    counts = ON_PROCESSOR if device.type == "cpu" else ON_ACCELERATOR
    cells = max(1, counts // max(1, shape[-1]))  # in a block
    cuts: list[list[slice]] = []
    for size in reversed(shape[:-1]):  # axes that fit stay whole; the next is cut evenly; the others, one index each
        step = -(-size // -(-size // cells)) if size else 1
        cuts.append([slice(i, i + step) for i in range(0, size, step)])
        cells = max(1, cells // step)
    return product(*reversed(cuts))
