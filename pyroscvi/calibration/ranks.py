"""Ranks: where the truth lies among draws of its posterior, over many simulated cells."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyroscvi.calibration.uniformity import holm, p_value

__all__ = ["Ranks", "frame", "ranked"]


def ranked(truth: Tensor, draws: Tensor, uniform: Tensor) -> Tensor:
    """Ranks [n] among 0 .. L of true values [n] among draws [L, n]; where they tie, by lot (``uniform`` [n])."""
    smaller, ties = (draws < truth).sum(0), (draws == truth).sum(0)
    return smaller + (uniform * (ties + 1)).floor().long().clamp(max=ties)


@dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks of every quantity, which are uniform among 0 .. L if draws are draws of the posterior.

    values  one row a simulated cell, one column a quantity
    draws   L
    level   how improbable ranks must be, corrected for the number of quantities, to fail
    """

    values: pd.DataFrame
    draws: int = 99
    level: float = 0.01

    def coverage(self, interval: float) -> pd.Series:
        """How often the central posterior interval of this probability holds the truth, by quantity.

        It is the one between order statistics that has exactly this probability, up to 1 / (L + 1).
        """
        aside = (1 - interval) / 2 * (self.draws + 1)
        held = (self.values >= aside - 1e-9) & (self.values < self.draws + 1 - aside - 1e-9)
        return held.mean()

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a quantity: p-value of uniform ranks, the same corrected for their number, coverage, verdict."""
        p = self.values.apply(lambda column: p_value(column.to_numpy(), self.draws))
        corrected = holm(p.to_numpy())
        return pd.DataFrame(
            {
                "p": p,
                "corrected p": corrected,
                "coverage of 50%": self.coverage(0.5),
                "coverage of 90%": self.coverage(0.9),
                "verdict": np.where(corrected < self.level, "fails", "passes"),
            }
        ).rename_axis(index="quantity")

    @property
    def passes(self) -> bool:
        """Can no quantity be told from a calibrated one?"""
        return not self.failures

    @property
    def failures(self) -> list[str]:
        """Quantities whose ranks are not uniform, the most improbable first."""
        failed = self.table[self.table["verdict"] == "fails"]
        return list(failed.sort_values("p").index)


def frame(pieces: list[dict[str, Tensor]]) -> pd.DataFrame:
    """Ranks of minibatches, put together."""
    return pd.DataFrame({name: torch.cat([piece[name] for piece in pieces]).cpu().numpy() for name in pieces[0]})
