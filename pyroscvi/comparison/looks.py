"""Looks: a comparison with a budget scores some cells, looks at the verdicts, and scores more where they are not clear.

Cells come in one random order, in up to eight pieces of equal size. After 1, 2, 4 and 8 pieces one looks at the
verdicts: the last piece is scored only if three looks left a difference open. Four looks that stop at the first
difference that is told apart find one too often. So every look tests at a quarter of the level (Bonferroni: the
probability that one of the looks errs is at most the sum over looks), with wider intervals. Where the seconds are over
between two looks, the next look is made at once: that moment depends on the time of a cell, and not on its evidence.

References
    Pocock, S. J. (1977) Group sequential methods in the design and analysis of clinical trials. Biometrika 64, 191-199.
    doi:10.1093/biomet/64.2.191 (repeated looks; its constant for four, 2.36 standard errors, is below our 2.53)
"""

import time
from collections.abc import Iterator
from math import log2
from typing import NamedTuple

import numpy as np

PIECES = 8
MIN_CELLS = 25  # of a piece: of fewer cells a standard error is itself inaccurate


class Piece(NamedTuple):
    """The rows of the next cells to score, and whether one looks at the verdicts after them."""

    rows: np.ndarray
    look: bool


def pieces(cells: int, seed: int, budget: float | None) -> tuple[int, Iterator[Piece]]:
    """The number of looks, and the pieces of cells; without a budget, one piece with all cells in their order.

    No piece is begun that would end after ``budget`` seconds if it takes as long as the one before.

    >>> looks, parts = pieces(100, seed=0, budget=60)
    >>> looks, [(len(part.rows), part.look) for part in parts]
    (3, [(25, True), (25, True), (25, False), (25, True)])
    """
    if budget is None:
        return 1, iter([Piece(np.arange(cells), True)])
    if not budget > 0:
        raise ValueError(f"budget is a number of seconds above 0, not {budget}")
    looks = 1 + int(log2(max(min(PIECES, cells // MIN_CELLS), 1)))
    return looks, _timed(np.random.default_rng(seed).permutation(cells), 2 ** (looks - 1), budget)


def _timed(order: np.ndarray, number: int, budget: float) -> Iterator[Piece]:
    began = before = time.monotonic()
    for place, rows in enumerate(np.array_split(order, number), 1):
        yield Piece(np.sort(rows), place & (place - 1) == 0)  # a power of two
        now = time.monotonic()
        if now - began + (now - before) > budget:
            return
        before = now
