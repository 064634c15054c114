"""Mean rates of units of cells, such as the cells of one donor in one group: what differential expression compares.

A cell's posterior says which share of its counts each gene should have. Two things are summed over the cells of a unit:
these shares, under the same batches for every unit, and how far the observed counts of each gene depart from them.

    share_ng   mean of the gene's count, divided by the mean of the cell's total, under a reference batch
    Y_ug       sum over cells of w x
    E_ug       sum over cells of w mu,   w = mu / Var(x), under the cell's own batch

Y and E behave like a Poisson count and its mean, whatever the likelihood: Var(Y) = E. The log rate of a unit is the log
of its mean share plus a departure from the decoder, log(e_ug) with the weak prior e_ug ~ Gamma(1/2, 1/2), as a decoder
underestimates differences between few cells. The posterior of e given Y is exact: a unit with counts has their rate,
and a unit without counts has that of the decoder.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
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

MIN_SHARE = 1e-12  # the smallest share, because its logarithm is taken
SHAPE = 0.5  # of the prior of departures
RATE_UNIT = 10_000  # a rate in a table is the expected count of a gene in a cell with so many counts


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
        mean = np.maximum(self.share.mean(0) / n, MIN_SHARE)
        spread = np.maximum(self.square / n - ((self.share / n) ** 2).mean(0), 0)  # of cells of the unit, in one draw
        seen, expected = self.seen + SHAPE, self.expected + SHAPE
        return np.log(mean) + np.log(seen / expected), spread / n / mean**2 + polygamma(1, seen)

    def departures(self) -> np.ndarray:
        """The variance of e among the units, beyond counting noise [g]; at least that of all genes together."""
        excess = ((self.seen - self.expected) ** 2 - self.expected).sum(0)
        weight = np.maximum((self.expected**2).sum(0), MIN_SHARE)
        return np.maximum(excess / weight, max(excess.sum() / weight.sum(), 0))


def unit_sums(
    fit: Fitted, cells: Cells, unit: np.ndarray, *, under: Sequence[Mapping[str, Tensor]] = ({},), samples: int,
    corrected: bool, seed: int, batch_size: int, progress: bool | str,
) -> UnitSums:  # fmt: skip
    """The sums of units over cells; cells of unit -1 are left out.

    under     interventions {field: values [n]} under which shares are computed, each in as many posterior samples. {}
              keeps the conditions of the cells
    samples   posterior samples, rounded up to a multiple of the number of interventions
    """
    inside = torch.from_numpy(unit >= 0)
    if not inside.all():
        cells, unit = fit.read(cells.subset(inside, hops=fit.hops)), unit[unit >= 0]
        under = [{name: values[inside] for name, values in one.items()} for one in under]
    units, code = int(unit.max()) + 1, torch.from_numpy(unit).to(cells.device)
    draws = -(-samples // len(under)) * len(under)

    def sums(minibatch: Cells, guides: Iterable[Any]) -> tuple[int, list[Tensor]]:
        index = torch.arange(len(minibatch)) if minibatch.index is None else minibatch.index.cpu()
        here = [{name: values[index] for name, values in one.items()} for one in under]
        shares: list[Tensor] = []
        total: Any = [0.0, 0.0, 0.0]
        for levels, guide in zip(cycle(here), guides, strict=False):
            own, *other = each_expected(fit, minibatch, [{}, levels] if levels else [{}], guide)
            mean, weight = _mean_and_weight(own)
            share = _mean(other[0]) if other else mean
            share = share / share.sum(-1, keepdim=True)
            weight = weight if minibatch.measured is None else weight * minibatch.measured
            added = share, share**2, weight * minibatch.x, weight * mean
            of_units, *rest = (_by_unit(value, code[index.to(code.device)], units) for value in added)
            shares.append(of_units)
            total = [before + value for before, value in zip(total, rest, strict=True)]
        return len(minibatch), [torch.stack(shares), *(value / draws for value in total)]

    label = progress if isinstance(progress, str) else "rates"
    sum_of: list[Any] = [0.0] * 4
    with counted(label, len(cells), bool(progress)) as done:
        for size, values in each_drawn(fit, cells, sums, draws, seed, batch_size, corrected):
            sum_of = [before + value for before, value in zip(sum_of, values, strict=True)]
            done(size)
    return UnitSums(np.bincount(unit, minlength=units).astype(float), *(value.cpu().numpy() for value in sum_of))


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
