"""A batch of count vectors, cut into blocks that stay in a processor's cache."""

from collections.abc import Iterator
from itertools import product

from torch import Size, device

__all__ = ["blocks"]

# Counts in a block: a megabyte of float32 on a processor; on an accelerator, where it is calls that cost, far more.
ON_PROCESSOR, ON_ACCELERATOR = 2**18, 2**26


def blocks(shape: Size, device: device) -> Iterator[tuple[slice, ...]]:
    """Slices of the leading axes of ``shape`` [..., g]: whole cells, contiguous in a contiguous tensor."""
    room = max(1, (ON_PROCESSOR if device.type == "cpu" else ON_ACCELERATOR) // max(1, shape[-1]))  # cells in a block
    cuts: list[list[slice]] = []
    for size in reversed(shape[:-1]):  # axes that fit are taken whole, the next is cut evenly, the rest one at a time
        step = -(-size // -(-size // room)) if size else 1
        cuts.append([slice(i, i + step) for i in range(0, size, step)])
        room = max(1, room // step)
    return product(*reversed(cuts))
