"""Seeds: several fits of one declaration that differ only by their seed, and the evidences that they have together.

    log_evidence   1/S sum_s log p_s(x_n), the log evidence to expect from a fit with any seed
    log_mixture    log 1/S sum_s p_s(x_n), the log evidence of the mixture of all seeds in equal shares. It is not
                   smaller, and it is the logarithm of a probability, which a mean of logarithms is not

``log_evidence`` is compared. The standard deviation between seeds estimates how much another seed would change it, and
the standard error of a mean over S seeds is that deviation over the square root of S.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from pyroscvi.evidence.importance import MAX_K_HAT
from pyroscvi.evidence.table import Evidences


class Refitted:
    """The evidences of a fit with every seed, all of the same n cells."""

    def __init__(self, evidences: Sequence[Evidences]):
        self.evidences = evidences
        self.tables = [one.table for one in evidences]
        self.by_seed = np.column_stack([table["log_evidence"] for table in self.tables])  # [n, S]

    @property
    def seeds(self) -> int:
        return len(self.tables)

    @cached_property
    def log_evidence(self) -> np.ndarray:
        """Log evidence of every cell [n], in nats: the mean over seeds."""
        return self.by_seed.mean(1)

    @cached_property
    def monte_carlo_se(self) -> np.ndarray:
        """Standard error of ``log_evidence`` [n]. Errors of seeds are independent."""
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
        """Standard deviation of the mean over cells, between seeds; NaN with one seed."""
        return float(self.by_seed.mean(0).std(ddof=1)) if self.seeds > 1 else np.nan

    @property
    def error(self) -> float:
        """Standard error of ``evidence`` that is due to the seeds; 0 with one seed, when it is unknown."""
        return self.spread / self.seeds**0.5 if self.seeds > 1 else 0.0

    @property
    def heavy_tailed(self) -> float:
        """Share of the cells whose k-hat is above 0.7: the mean over seeds."""
        return float(np.mean([(table["k_hat"] > MAX_K_HAT).mean() for table in self.tables]))

    @property
    def certificate(self) -> str:
        """The weakest of all seeds: an "uncertified" one if there is any, else the one with the widest gap."""
        return max(map(_certified, self.evidences))[-1]


def _certified(evidences: Evidences) -> tuple[bool, float, str]:
    """Whether a certificate failed, its gap, and its text; some cells of a table may be exact."""
    table, certificate = evidences
    estimated = table["certificate"][table["certificate"] != "exact"]
    words = "exact" if estimated.empty else str(estimated.iloc[0])
    return words.startswith("uncertified"), 0.0 if certificate is None else certificate.gap, words


def joined(pieces: Sequence[Evidences], order: np.ndarray) -> Evidences:
    """The evidences of several pieces of the cells as those of all, in this order; the first has the certificate."""
    if len(pieces) == 1:
        return pieces[0]
    table = pd.concat([piece.table for piece in pieces]).iloc[order]
    certificate = pieces[0].certificate
    if certificate is not None:
        table["certificate"] = table["method"].where(table["method"] == "exact", certificate.words)
    return Evidences(table, certificate)
