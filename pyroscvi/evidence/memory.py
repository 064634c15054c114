"""Memory: how many cells, and how many draws of each, are computed at once."""

import re
from typing import NamedTuple

import torch

CELLS_AT_ONCE = 128  # if memory allows it: more would save no time
ON_GPU = 1024  # cells at once there: a call takes as long for a few cells as for many
MIN_DRAWS = 8  # draws of each cell at once, before more cells are taken; a search for modes takes as many
# Arrays of the predictors' shape that exist at the same time: with gradients, a ZINB whose decoder predicts theta was
# measured at 8, without them at 5. Arrays of a minibatch's counts. Numbers that are kept for every draw.
PREDICTORS, COUNTS, WEIGHTS = 8, 8, 4

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


class Room(NamedTuple):
    """The number of cells, and of draws of each cell, whose intermediate results fit into memory.

    memory     bytes, beside the model and the data set
    genes      genes, or units of the widest hidden layer if they are more
    levels     times that a draw is decoded: levels of what is enumerated that counts depend on
    particles  draws of every cell, whose weights are kept
    itemsize   bytes of one number of a predictor
    most       cells at once, however much memory there is
    """

    memory: int
    genes: int
    levels: int = 1
    particles: int = 1
    itemsize: int = 8
    most: int = CELLS_AT_ONCE

    def cells(self) -> int:
        """Cells in a minibatch. Raises ValueError if one draw of one cell does not fit."""
        if (needed := self._bytes(1)) > self.memory:
            levels = f" and {self.levels} enumerated levels" if self.levels > 1 else ""
            raise ValueError(
                f"memory={self.memory:,} bytes are too few: {self.particles:,} draws of one cell, one at a time, need "
                f"{needed:,} with {self.genes:,} genes{levels}"
            )
        return max(1, min(self.most, self.memory // self._bytes(MIN_DRAWS)))

    def draws(self, cells: int) -> int:
        """Draws at once of each of these cells; one at least."""
        left = self.memory // cells - self._bytes(0)
        return max(1, left // (self._bytes(1) - self._bytes(0)))

    def _bytes(self, draws: int) -> int:
        """Bytes of one cell with so many draws at once."""
        arrays = PREDICTORS * self.levels * draws + COUNTS
        return self.itemsize * self.genes * arrays + 8 * WEIGHTS * self.particles


def usual_memory(device: torch.device) -> int:
    """Bytes for intermediate results, where none are named: more of them on a GPU, where each call costs time."""
    return torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else 256_000_000


def in_bytes(memory: int | str) -> int:
    """The number of bytes, given as a number or as "512MB", "1.5 GB" or "1GiB"."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)\s*([KMGT]?I?)B?", str(memory).strip().upper())
    if match is None or match[2] not in UNITS or not float(match[1]):
        raise ValueError(f'memory is a number of bytes, or "512MB", or "2GB", not {memory!r}')
    return int(float(match[1]) * UNITS[match[2]])
