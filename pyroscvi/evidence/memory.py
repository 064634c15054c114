"""Room: how many cells, and how many draws of each, are looked at at once within a given memory."""

import re
from typing import NamedTuple

__all__ = ["Room", "in_bytes"]

CELLS = 128  # at once, if there is room: more would save no time
LEAST = 8  # draws of each that come before more cells do; a search for modes takes as many
# Arrays of the predictors' shape that are held at once, at most: with gradients, a ZINB whose decoder predicts theta
# was measured at 8, without them at 5. And arrays of a minibatch's counts, and numbers that are kept for every draw.
PREDICTORS, COUNTS, WEIGHTS = 8, 8, 8

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


class Room(NamedTuple):
    """Cells at once, and draws of each of them at once, that bytes are enough for.

    memory     bytes, beside what the model and the data set take
    genes      genes, or units of the widest hidden layer if they are more
    levels     joint levels of what is enumerated
    particles  draws of every cell, whose weights are kept
    itemsize   bytes of one number of a predictor
    """

    memory: int
    genes: int
    levels: int = 1
    particles: int = 1
    itemsize: int = 8

    def cells(self) -> int:
        """Cells in a minibatch. ValueError if there is no room for one draw of one cell."""
        if (needed := self._bytes(1)) > self.memory:
            many = f" and {self.levels} enumerated levels" if self.levels > 1 else ""
            raise ValueError(
                f"memory={self.memory:,} bytes are too few: {self.particles:,} draws of one cell, one at a time, need "
                f"{needed:,} with {self.genes:,} genes{many}"
            )
        return max(1, min(CELLS, self.memory // self._bytes(LEAST)))

    def draws(self, cells: int) -> int:
        """Draws at once of each of these cells; one at least."""
        left = self.memory // cells - self._bytes(0)
        return max(1, left // (self._bytes(1) - self._bytes(0)))

    def _bytes(self, draws: int) -> int:
        """Of one cell."""
        arrays = PREDICTORS * self.levels * draws + COUNTS
        return self.itemsize * self.genes * arrays + 8 * WEIGHTS * self.particles


def in_bytes(memory: int | str) -> int:
    """A number of bytes, or what "512MB", "1.5 GB" and "1GiB" mean."""
    told = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)\s*([KMGT]?I?)B?", str(memory).strip().upper())
    if told is None or told[2] not in UNITS or not float(told[1]):
        raise ValueError(f'memory is a number of bytes, or "512MB", or "2GB", not {memory!r}')
    return int(float(told[1]) * UNITS[told[2]])
