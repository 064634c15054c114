"""Posterior predictive checks: does a fitted model generate cells like those that it was fitted to?

    z ~ q(z | x),   x' ~ p(x | z):       is T(x) among T(x'_1), T(x'_2), ... ?

Replicates have the latents of the very cells that they are compared with, so the check is less strict than it looks:
where the model is true its p-values are not uniform, and a value of 0.2 has no meaning by itself. So the same check is
made of data that the model has simulated, for which the model *is* true.

    result = predictive_check(fit, cells)
    print(result)
    result.plot().savefig("predictive.png")

References
    Gelman, A., Meng, X.-L. & Stern, H. (1996) Posterior predictive assessment of model fitness via realized
    discrepancies. Stat Sinica 6, 733-807.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from pyroscvi.analysis.generate import generate
from pyroscvi.calibration.simulation_based import CALIBRATION_SEED
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.simulated import simulate
from pyroscvi.program import Fitted
from pyroscvi.pyro_internals import alone
from pyroscvi.report.terminal import Printed, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

Statistic = Callable[[np.ndarray], np.ndarray]
MAX_COUNTS = 2**26  # counts of replicates in memory at once
COMPARED_GENES = 40  # with the largest variance: their correlations are compared


@dataclass(frozen=True)
class Replicated:
    """One statistic of some data [m], and of replicates of it [r, m]."""

    of_data: np.ndarray
    of_replicates: np.ndarray

    @property
    def p(self) -> float:
        """The share of data sets, the data among them, that are at least as far from the mean as the data are.

        The distance is the mean square over entries, each in standard deviations over all data sets. Data and
        replicates are treated alike, so the share is at least 1 / (r + 1).
        """
        every = np.concatenate([self.of_data[None], self.of_replicates])
        deviation, spread = every - every.mean(0), every.std(0)
        distance = (np.divide(deviation, spread, out=np.zeros_like(deviation), where=spread > 0) ** 2).mean(1)
        return float((distance >= distance[0] * (1 - 1e-9)).mean())


@dataclass(frozen=True, eq=False)
class Check(Printed):
    """The result of ``predictive_check``, by statistic.

    data       the cells and their replicates
    simulated  data sets that the model has simulated, each with its replicates
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
        """A picture of data and replicates, and below it of a simulated data set: ``report.predictive.checks``."""
        from pyroscvi.report.predictive import checks

        return checks(self, statistic)

    def __rich__(self) -> "Table":
        first = next(iter(self.data.values()))
        title = f"Posterior predictive check: {len(first.of_replicates)} replicates"
        compared = f"compared with {len(self.simulated)} data sets that the model has simulated"
        table = self.table
        return numbers(table, f"{title}, {compared}", dict.fromkeys(table.columns, ".3g"))

    def __repr__(self) -> str:
        return f"Check({', '.join(f'{name}: p={one.p:.2g}' for name, one in self.data.items())})"


@alone
def predictive_check(
    fit: Fitted, cells: Cells | AnnData, replicates: int = 99, simulations: int = 3, *, most: int = 500,
    corrected: bool = False, seed: int = 0,
) -> Check:  # fmt: skip
    """Zeros, means, variances, totals, maxima and correlations of cells, and of counts generated from their latents.

    cells        Cells, or an AnnData; the cells of training, or others
    replicates   number of replicates of every data set; a p-value is at least 1 / (replicates + 1)
    simulations  number of data sets that the model simulates, for the same check
    most         number of cells at most, from all over the data set
    corrected    latents from the posterior itself, by importance resampling, rather than from the guide

    A model that is conditional on the totals of cells is given their library sizes. A guide that is too narrow or
    misplaced changes the p-values too, also those of the simulated data: correct it before you reject the model.
    """
    if replicates < 2:
        raise ValueError(f"a predictive check takes two replicates at least, not {replicates}")
    cells = fit.read(cells)
    if len(cells) > most:
        rows = torch.linspace(0, len(cells) - 1, most).round().long()
        cells = fit.read(cells.subset(rows, hops=fit.hops))
    data = _replicated(fit, cells, replicates, corrected, seed)
    reader = Reader(fit, cells)
    simulated = [_simulated(reader, cells, seed + i) for i in range(simulations)]
    checks = (_replicated(fit, made, replicates, corrected, seed + i) for i, made in enumerate(simulated, start=1))
    return Check(data, tuple(checks))


def _simulated(reader: Reader, cells: Cells, seed: int) -> Cells:
    """Cells with simulated counts under the conditions of these, in the form of observed ones."""
    observed = simulate(reader, CALIBRATION_SEED + seed).observed
    fields = {"label": "belief", "proteins": "proteins"}
    others: dict[str, Any] = {fields[site]: observed[site].to(cells.dtype) for site in fields if site in observed}
    return replace(cells, counts=observed["x"].clamp(min=0).to(cells.dtype), **others)


def _replicated(fit: Fitted, cells: Cells, replicates: int, corrected: bool, seed: int) -> dict[str, Replicated]:
    counts = cells.x.cpu().numpy()
    functions = statistics(counts)
    values: dict[str, list[np.ndarray]] = {name: [] for name in functions}
    step = max(1, MAX_COUNTS // counts.size)
    for start in range(0, replicates, step):
        samples = min(step, replicates - start)
        drawn = generate(fit, cells, samples=samples, corrected=corrected, seed=seed * replicates + start)
        for x in drawn if cells.measured is None else drawn * cells.measured.cpu().numpy():
            for name, statistic in functions.items():
                values[name].append(statistic(x))
    return {name: Replicated(statistic(counts), np.stack(values[name])) for name, statistic in functions.items()}


def statistics(counts: np.ndarray) -> Mapping[str, Statistic]:
    """Functions of counts [n, g] to numbers of every gene [g], cell [n] or pair of genes.

    counts  the observed ones: correlations are between the genes that vary most in them
    """
    spread = np.log1p(counts).var(0)
    genes = np.sort(np.argsort(-spread, kind="stable")[:COMPARED_GENES])
    functions: dict[str, Statistic] = {
        "zeros per gene": lambda x: (x < 0.5).mean(0),
        "zeros per cell": lambda x: (x < 0.5).mean(1),
        "mean of a gene": lambda x: x.mean(0),
        "variance of a gene": lambda x: x.var(0),
        "library size": lambda x: x.sum(1),
        "maximum of a gene": lambda x: x.max(0),
    }
    if len(genes) > 1 and len(counts) > 2:
        functions["correlation of two genes"] = lambda x: _correlations(np.log1p(x[:, genes]))
    return functions


def _correlations(y: np.ndarray) -> np.ndarray:
    """Pearson correlations of all pairs of columns; zero where one of the two is constant."""
    deviation = y - y.mean(0)
    norm = np.sqrt((deviation**2).sum(0))
    scaled = deviation / np.where(norm > 0, norm, 1)
    return (scaled.T @ scaled)[np.triu_indices(y.shape[1], 1)]
