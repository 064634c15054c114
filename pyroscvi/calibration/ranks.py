"""Ranks of the truth among draws of its posterior, over many simulated cells."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyroscvi.calibration.uniformity import band, below, holm, p_value


def ranked(truth: Tensor, draws: Tensor, uniform: Tensor) -> Tensor:
    """Ranks [n], from 0 to L, of true values [n] among draws [L, n]; ties are broken at random (``uniform`` [n])."""
    smaller, ties = (draws < truth).sum(0), (draws == truth).sum(0)
    return smaller + (uniform * (ties + 1)).floor().long().clamp(max=ties)


@dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks of every quantity; they are uniform on 0 .. L if the draws are draws of the posterior.

    values  one row a simulated cell, one column a quantity
    draws   L
    level   the significance level, for p-values corrected for the number of quantities
    """

    values: pd.DataFrame
    draws: int = 99
    level: float = 0.01

    def coverage(self, interval: float) -> pd.Series:
        """How often the central posterior interval of this probability contains the truth, by quantity.

        The interval lies between order statistics and has exactly this probability, up to 1 / (L + 1).
        """
        tail = (1 - interval) / 2 * (self.draws + 1)
        inside = (self.values >= tail - 1e-9) & (self.values < self.draws + 1 - tail - 1e-9)
        return inside.mean()

    def below(self, quantity: str) -> np.ndarray:
        """The number of ranks of a quantity below 1 .. L, the steps of its ECDF."""
        return below(self.values[quantity].to_numpy(), self.draws)

    def band(self, coverage: float) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest of these numbers that calibrated ranks keep to with this probability."""
        return band(len(self.values), self.draws, coverage)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a quantity: p-value of uniform ranks, the same corrected for multiple tests, coverage, verdict."""
        p = self.values.apply(lambda column: p_value(column.to_numpy(), self.draws))
        corrected = holm(p.to_numpy())
        coverage = {f"coverage of {interval:.0%}": self.coverage(interval) for interval in (0.5, 0.9)}
        verdict = np.where(corrected < self.level, "fails", "passes")
        table = pd.DataFrame({"p": p, "corrected p": corrected, **coverage, "verdict": verdict})
        return table.rename_axis(index="quantity")

    @property
    def passes(self) -> bool:
        """True if the ranks of no quantity differ significantly from uniform ones."""
        return not self.failures

    @property
    def failures(self) -> list[str]:
        """Quantities whose ranks are not uniform, the smallest p-value first."""
        failed = self.table[self.table["verdict"] == "fails"]
        return list(failed.sort_values("p").index)


def frame(pieces: list[dict[str, Tensor]]) -> pd.DataFrame:
    """Ranks of all minibatches in one table."""
    return pd.DataFrame({name: torch.cat([piece[name] for piece in pieces]).cpu().numpy() for name in pieces[0]})
