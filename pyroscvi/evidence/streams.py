"""Random numbers for each cell separately, so that the estimate of a cell does not depend on its minibatch.

Every cell has generators that are seeded by its row in the data set, and draws their numbers in sequence. So neither
the minibatches nor the pieces in which particles are drawn change a result.
"""

import numpy as np
import torch
from torch import Tensor


class Streams:
    """A stream of normal, one of chi-square and one of uniform numbers for each cell.

    seed     seed of the whole estimate
    rows     row of each cell in the data set   [n]
    purpose  streams of two purposes are independent
    """

    def __init__(self, seed: int, rows: Tensor, purpose: int = 0):
        self.seed, self.rows, self.purpose = seed, rows.tolist(), purpose
        self.generators: dict[int, list[np.random.Generator]] = {}

    def normal(self, s: int, d: int) -> Tensor:
        """The next s vectors of standard normal numbers of every cell [s, n, d]."""
        return _stacked([g.standard_normal((s, d)) for g in self._of(0)])

    def chi2(self, df: float, s: int) -> Tensor:
        """The next s chi-square numbers of every cell [s, n]."""
        return _stacked([g.chisquare(df, s) for g in self._of(1)])

    def uniform(self, s: int) -> Tensor:
        """The next s numbers between 0 and 1 of every cell [s, n]."""
        return _stacked([g.random(s) for g in self._of(2)])

    def anew(self, purpose: int, index: Tensor | None = None) -> "Streams":
        """Unused streams of these cells, or of those at ``index``, for another purpose."""
        rows = torch.tensor(self.rows)
        return Streams(self.seed, rows if index is None else rows[index.cpu()], purpose)

    def take(self, index: Tensor) -> "Streams":
        """The streams of some of the cells, which go on from here: what is drawn from them is drawn from these."""
        for kind in range(3):
            self._of(kind)
        some, chosen = index.tolist(), Streams(self.seed, torch.tensor(self.rows)[index.cpu()], self.purpose)
        chosen.generators = {kind: [numbers[i] for i in some] for kind, numbers in self.generators.items()}
        return chosen

    def _of(self, kind: int) -> list[np.random.Generator]:
        if kind not in self.generators:
            seeds = [(self.seed, kind, row, self.purpose) for row in self.rows]
            self.generators[kind] = [np.random.default_rng(seed) for seed in seeds]
        return self.generators[kind]


def _stacked(numbers: list[np.ndarray]) -> Tensor:
    return torch.as_tensor(np.stack(numbers, 1))
