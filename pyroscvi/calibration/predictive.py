"""Posterior predictive checks: does a fitted model make cells like those that it was fitted to?

    z ~ q(z | x),   x' ~ p(x | z):       is T(x) among T(x'_1), T(x'_2), ... ?

Replicates have the latents of the very cells that they are compared with, so that a check is milder than it looks: a
p-value is not uniform where the model is true, and nobody can tell from 0.2 alone what it means. Beside it therefore
stands the same check of data that the model has made itself, for which the model *is* true.

    found = predictive_check(fit, cells)
    print(found)
    found.plot().savefig("predictive.png")

References
    Gelman, A., Meng, X.-L. & Stern, H. (1996) Posterior predictive assessment of model fitness via realized
    discrepancies. Stat Sinica 6, 733-807.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from pyroscvi.calibration.simulation import simulate
from pyroscvi.calibration.statistics import Statistic, statistics
from pyroscvi.data.cells import Cells
from pyroscvi.pyro_internals import alone

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyroscvi.fitting.result import Fit

__all__ = ["Check", "Replicated", "predictive_check"]

AT_ONCE = 2**26  # counts of replicates that are held at once


@dataclass(frozen=True)
class Replicated:
    """One statistic of some data [m], and of replicates of it [r, m]."""

    of_data: np.ndarray
    of_replicates: np.ndarray

    @property
    def p(self) -> float:
        """The share of data sets, the data among them, that are as far from what is usual as the data are.

        How far is the mean square over entries, each in standard deviations of all the data sets; data and replicates
        are treated alike, and so the share is at least 1 / (r + 1).
        """
        every = np.concatenate([self.of_data[None], self.of_replicates])
        aside, spread = every - every.mean(0), every.std(0)
        far = (np.divide(aside, spread, out=np.zeros_like(aside), where=spread > 0) ** 2).mean(1)
        return float((far >= far[0] * (1 - 1e-9)).mean())


@dataclass(frozen=True, eq=False)
class Check:
    """What ``predictive_check`` found, by statistic.

    data       the cells, beside replicates of them
    simulated  data sets of the model's own making, each beside replicates of it
    """

    data: Mapping[str, Replicated]
    simulated: tuple[Mapping[str, Replicated], ...]

    @property
    def table(self) -> pd.DataFrame:
        """One row a statistic: its mean in data and replicates, p; the least and the median p of simulated data."""
        rows = {}
        for name, one in self.data.items():
            p = [other[name].p for other in self.simulated]
            rows[name] = {
                "data": one.of_data.mean(),
                "replicates": one.of_replicates.mean(),
                "p": one.p,
                "p, simulated: lowest": min(p, default=np.nan),
                "median": float(np.median(p)) if p else np.nan,
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(index="statistic")

    def plot(self, statistic: str | None = None) -> "Figure":
        """Data beside replicates, and below it the same of a simulated data set: ``report.predictive.checks``."""
        from pyroscvi.report.predictive import checks

        return checks(self, statistic)

    def __str__(self) -> str:
        first = next(iter(self.data.values()))
        told = f"Posterior predictive check: {len(first.of_replicates)} replicates"
        beside = f"beside {len(self.simulated)} data sets of the model's own making"
        return f"{told}, {beside}\n{self.table.to_string(float_format='{:.3g}'.format)}"

    def __repr__(self) -> str:
        return f"Check({', '.join(f'{name}: p={one.p:.2g}' for name, one in self.data.items())})"


@alone
def predictive_check(
    fit: "Fit",
    cells: Any,
    replicates: int = 99,
    simulations: int = 3,
    *,
    most: int = 500,
    corrected: bool = False,
    seed: int = 0,
) -> Check:
    """Zeros, means, variances, totals, maxima and correlations of cells, and of what the fit makes of their latents.

    cells        Cells, or an AnnData; those the fit has seen, or others
    replicates   of every data set; a p-value is at least 1 / (replicates + 1)
    simulations  data sets of the model's own making, to which the same is done
    most         cells that are looked at, from all over the data set
    corrected    latents from the posterior itself, by importance resampling, rather than from the guide

    A model that is conditional on the totals of cells has their library sizes for granted. A guide that is too narrow
    or beside the mark is seen here too, in the simulated data as well: correct it before the model is blamed.
    """
    if replicates < 2:
        raise ValueError(f"a predictive check takes two replicates at least, not {replicates}")
    cells = fit.read(cells)
    if len(cells) > most:
        rows = torch.linspace(0, len(cells) - 1, most).round().long()
        cells = fit.read(cells.subset(rows, hops=fit.guide.encoder.hops))
    options: dict[str, Any] = {"replicates": replicates, "corrected": corrected}
    data = _replicated(fit, cells, seed=seed, **options)
    own = [_own(fit, cells, seed + i) for i in range(simulations)]
    return Check(data, tuple(_replicated(fit, made, seed=seed + 1 + i, **options) for i, made in enumerate(own)))


def _own(fit: "Fit", cells: Cells, seed: int) -> Cells:
    """Cells of the model's own making under the conditions of these, which nobody could tell from observed ones."""
    made = simulate(fit, cells, seed).observed
    told: dict[str, Any] = {"belief": made["label"].to(cells.dtype)} if "label" in made else {}
    return replace(cells, counts=made["x"].clamp(min=0).to(cells.dtype), **told)


def _replicated(fit: "Fit", cells: Cells, replicates: int, corrected: bool, seed: int) -> dict[str, Replicated]:
    counts = cells.x.cpu().numpy()
    of: Mapping[str, Statistic] = statistics(counts)
    found: dict[str, list[np.ndarray]] = {name: [] for name in of}
    step = max(1, AT_ONCE // counts.size)
    for start in range(0, replicates, step):
        drawn = fit.generate(
            cells, samples=min(step, replicates - start), corrected=corrected, seed=seed * replicates + start
        )
        for x in drawn:
            for name, statistic in of.items():
                found[name].append(statistic(x))
    return {name: Replicated(statistic(counts), np.stack(found[name])) for name, statistic in of.items()}
