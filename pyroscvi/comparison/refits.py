"""Refits: what several fits of one declaration, which differ by their seed alone, say together of the same cells.

    log_evidence   1/S sum_s log p_s(x_n), what a fit with some seed may be expected to say of a cell
    log_mixture    log 1/S sum_s p_s(x_n), what all of them say in equal shares; no less, and a probability of the cell,
                   which the mean of logarithms is not

The first is what is compared. What another seed would have said is then known by the standard deviation between seeds,
and what a mean over S of them is off by is that deviation over the root of S.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from pyroscvi.comparison.usage import Usage, usage_of
from pyroscvi.evidence.pareto import MAX_K_HAT
from pyroscvi.evidence.reader import Reader, pair

__all__ = ["Refitted", "recorded", "usage_of_all"]


class Refitted:
    """A table of ``evidence_table`` for every seed, all of the same n cells."""

    def __init__(self, tables: Sequence[pd.DataFrame]):
        self.tables = tables
        self.cells = tables[0].index
        self.by_seed = np.column_stack([table["log_evidence"] for table in tables])  # [n, S]

    @property
    def seeds(self) -> int:
        return len(self.tables)

    @cached_property
    def log_evidence(self) -> np.ndarray:
        """Of every cell [n], in nats: the mean over seeds."""
        return self.by_seed.mean(1)

    @cached_property
    def monte_carlo_se(self) -> np.ndarray:
        """Of ``log_evidence`` [n]. Seeds share random numbers and not what becomes of them: errors are independent."""
        return np.sqrt(sum(table["monte_carlo_se"].to_numpy() ** 2 for table in self.tables)) / self.seeds

    @property
    def log_mixture(self) -> np.ndarray:
        """Log probability of every cell [n] under all seeds in equal shares."""
        return np.asarray(logsumexp(self.by_seed, axis=1)) - np.log(self.seeds)

    @property
    def evidence(self) -> float:
        """Mean over cells and seeds, in nats a cell."""
        return float(self.log_evidence.mean())

    @property
    def spread(self) -> float:
        """Standard deviation of the mean over cells, between seeds; NaN where there is but one."""
        return float(self.by_seed.mean(0).std(ddof=1)) if self.seeds > 1 else np.nan

    @property
    def error(self) -> float:
        """Standard error of ``evidence`` that is due to the seeds; 0 where there is but one, and nobody knows."""
        return self.spread / self.seeds**0.5 if self.seeds > 1 else 0.0

    @property
    def heavy_tailed(self) -> float:
        """Share of the cells whose k-hat is above 0.7: the mean over seeds."""
        return float(np.mean([(table["k_hat"] > MAX_K_HAT).mean() for table in self.tables]))

    @property
    def certificate(self) -> str:
        """The weakest of all seeds: one that does not hold, if there is any, and else the one with the widest gap."""
        return max(map(_certified, self.tables))[-1]


def _certified(table: pd.DataFrame) -> tuple[bool, float, str]:
    """Does a certificate not hold, how wide is its gap, and what does it say? Some cells of a table may be exact."""
    estimated = table["certificate"][table["certificate"] != "exact"]
    words = "exact" if estimated.empty else str(estimated.iloc[0])
    return words.startswith("uncertified"), table.attrs.get("certificate", {}).get("gap", 0.0), words


def usage_of_all(readers: Sequence[Reader], seed: int) -> Usage:
    """How much is used of a model: the mean over its fits."""
    return Usage(*np.mean([usage_of(reader, seed) for reader in readers], axis=0).tolist())


def recorded(fits: Sequence[Any]) -> dict[str, Any]:
    """What a reader must know of how fits came about: the least KL weight, and the mean of their seconds."""
    model, _ = pair(fits[0])
    records = [getattr(fit, "record", {}) for fit in fits]
    return {
        "kl_weight": np.fmin.reduce([record.get("kl_weight") or np.nan for record in records]),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": np.mean([record.get("seconds") or np.nan for record in records]),
    }
