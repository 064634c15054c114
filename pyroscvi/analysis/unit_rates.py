"""Mean rates of units of cells, such as the cells of one donor in one group: what differential expression compares.

A cell's posterior says which share of its counts each gene should have. Two things are summed over the cells of a unit:
these shares, under the same batches for every unit, and how far the observed counts of each gene depart from them.

    share_ng   mean of the gene's count, divided by the mean of the cell's total, under a reference batch
    Y_ug       sum over cells of w x
    E_ug       sum over cells of w mu,   w = mu / Var(x), under the cell's own batch

Y and E behave like a Poisson count and its mean, whatever the likelihood: Var(Y) = E. The log rate of a unit is the log
of its mean share plus a departure from the decoder, log(e_ug) with e_ug ~ Gamma(1/phi_g, 1/phi_g). The posterior of e
given Y is exact. phi is estimated: it is near zero where the decoder explains the units of a gene up to counting noise,
and large where it does not, so that the counts then decide.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from scipy.special import polygamma
from torch import Tensor

from pyroscvi.analysis.corrected import each_drawn
from pyroscvi.analysis.posterior import Expected, each_expected
from pyroscvi.data.cells import Cells
from pyroscvi.inference.progress import counted
from pyroscvi.program import Fitted

LEAST = 1e-12  # of a share: its logarithm is taken


@dataclass(frozen=True)
class UnitSums:
    """Sums over the cells of every unit.

    cells     number of cells                                        [u]
    share     shares of genes, for every draw                        [s, u, g]
    square    squared shares, averaged over draws                    [u, g]
    seen      Y, averaged over draws                                 [u, g]
    expected  E, averaged over draws                                 [u, g]
    """

    cells: np.ndarray
    share: np.ndarray
    square: np.ndarray
    seen: np.ndarray
    expected: np.ndarray

    def merged(self, unit: np.ndarray) -> "UnitSums":
        """The sums of larger units, numbered from 0; ``unit`` [u] is the new unit of each, -1 for those left out."""
        into = (np.arange(unit.max() + 1)[:, None] == unit).astype(float)
        sums = (into @ getattr(self, name) for name in ("cells", "share", "square", "seen", "expected"))
        return UnitSums(*sums)

    def log_rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean and variance of the log rate of every unit and gene, both [u, g]."""
        n = np.maximum(self.cells, 1)[:, None]
        mean = np.maximum(self.share.mean(0) / n, LEAST)
        spread = np.maximum(self.square / n - ((self.share / n) ** 2).mean(0), 0)  # of cells of the unit, in one draw
        shape = 1 / np.maximum(self._departures(), 1e-6)
        seen, expected = self.seen + shape, self.expected + shape
        return np.log(mean) + np.log(seen / expected), spread / n / mean**2 + polygamma(1, seen)

    def _departures(self) -> np.ndarray:
        """phi [g]: the variance of the units' departures from the decoder; at least that of all genes together."""
        excess = ((self.seen - self.expected) ** 2 - self.expected).sum(0)
        weight = np.maximum((self.expected**2).sum(0), LEAST)
        return np.maximum(excess / weight, max(excess.sum() / weight.sum(), 0))


def unit_sums(
    fit: Fitted, cells: Cells, unit: np.ndarray, *, average: str | None, samples: int, corrected: bool, seed: int,
    batch_size: int, progress: bool | str,
) -> UnitSums:  # fmt: skip
    """The sums of units over cells; cells of unit -1 are left out.

    average   a field whose levels among these cells are averaged over, one in each posterior sample
    samples   posterior samples; at least one for every level, up to 50 levels
    """
    inside = unit >= 0
    if not inside.all():
        cells, unit = fit.read(cells.subset(torch.from_numpy(inside), hops=fit.guide.encoder.hops)), unit[inside]
    units, code = int(unit.max()) + 1, torch.from_numpy(unit).to(cells.device)
    given = _levels(cells, average, samples, seed)

    def sums(minibatch: Cells, guides: Iterable[Any]) -> tuple[int, list[Tensor]]:
        row = code[torch.arange(len(minibatch)) if minibatch.index is None else minibatch.index]
        shares: list[Tensor] = []
        square: Any = 0.0
        seen: Any = 0.0
        mean_seen: Any = 0.0
        for level, guide in zip(given, guides, strict=True):
            seen_under = [{}] if level is None else [{}, {str(average): level.expand(len(minibatch))}]
            own, *other = each_expected(fit, minibatch, seen_under, guide)
            mean, weight = _mean_and_weight(own)
            share = _mean(other[0]) if other else mean
            share = share / share.sum(-1, keepdim=True)
            weight = weight if minibatch.measured is None else weight * minibatch.measured
            added = [share, share**2, weight * minibatch.x, weight * mean]
            share, *rest = (_by_unit(value, row, units) for value in added)
            shares.append(share)
            square, seen, mean_seen = square + rest[0], seen + rest[1], mean_seen + rest[2]
        return len(minibatch), [torch.stack(shares), *(value / len(given) for value in (square, seen, mean_seen))]

    label = progress if isinstance(progress, str) else "rates"
    total: list[Any] = [0.0] * 4
    with counted(label, len(cells), bool(progress)) as done:
        for size, values in each_drawn(fit, cells, sums, len(given), seed, batch_size, corrected):
            total = [before + value for before, value in zip(total, values, strict=True)]
            done(size)
    return UnitSums(np.bincount(unit, minlength=units).astype(float), *(value.cpu().numpy() for value in total))


def _levels(cells: Cells, field: str | None, samples: int, seed: int) -> list[Tensor | None]:
    """The level of the field in every posterior sample, each level equally often; None keeps those of the cells."""
    if field is None:
        return [None] * samples
    present = cells.categories[field].unique()
    present = present[present >= 0]
    if len(present) > 50:
        order = torch.randperm(len(present), generator=torch.Generator().manual_seed(seed))
        present = present[order[: max(samples, 50)].to(present.device)]
    rounds = -(-samples // len(present))
    return list(islice(cycle(present), rounds * len(present)))


def _mean_and_weight(own: Expected) -> tuple[Tensor, Tensor]:
    """The mean of every count, and its weight: mean / variance."""
    mean, square = _mean(own), own.mean(own.counts.variance + own.counts.mean**2)
    return mean, (mean / (square - mean**2).clamp(min=1e-30)).clamp(max=1.0)


def _mean(counts: Expected) -> Tensor:
    return counts.mean(counts.counts.mean)


def _by_unit(value: Tensor, row: Tensor, units: int) -> Tensor:
    """Sums of the rows of each unit, in double precision [u, g]."""
    return torch.zeros(units, value.shape[-1], dtype=torch.float64, device=value.device).index_add_(
        0, row, value.double()
    )
