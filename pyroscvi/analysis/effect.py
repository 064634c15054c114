"""Effects: what a change of conditions does to the mean rates of cells, by group and gene.

    fit.effect(controls, {"condition": "stim"}, against={"condition": "ctrl"}, by="cell_type")

The state of every cell is drawn from its posterior under its own conditions, and its rates are computed under both
conditions at this state: a counterfactual. The interval contains three uncertainties. That of the states. That of the
weights of the conditions, at least as large as that of the counts that training had under each condition. And that of
the decoder: how far groups of cells depart from it under conditions that were observed (``UnitSums.departures``). The
interval does not contain that an effect may be another one in cells of which none was observed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.special import ndtr, ndtri, polygamma  # scipy.stats takes a second to import

from pyroscvi.analysis.groups import By, Groups, groups_of
from pyroscvi.analysis.posterior import Conditions, Over, interventions
from pyroscvi.analysis.unit_rates import MIN_SHARE, RATE_UNIT, SHAPE, unit_sums
from pyroscvi.data.cells import Cells
from pyroscvi.program import Fitted
from pyroscvi.pyro_internals import alone


def effect(
    fit: Fitted, cells: Cells | AnnData, given: Conditions, against: Conditions, *, by: By | None = None,
    average: Over | None = None, delta: float = 0.25, level: float = 0.9, samples: int = 20, corrected: bool = False,
    seed: int = 0, batch_size: int = 512, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """How the mean rate of every gene changes if cells are under ``given`` rather than ``against``; largest first.

    given, against   values of fields and covariates: ``{"condition": "stim"}``, ``{"dose": 2.0}``
    by          column, field or values: effects of each group of cells apart, such as types
    average     a field to average over, such as "batch", under both conditions
    delta       a change of log2 rate up to this size counts as none
    level       probability of the interval
    samples     posterior samples of the states
    corrected   sample the exact posterior by importance resampling, not the guide

    One row for each group and gene: (group), gene, log2_fold_change with low and high, p_change (the probability of a
    change beyond ``delta``), and the mean rates per 10,000 counts, ``rate`` and ``rate_against``.
    """
    (table,) = effects(
        fit, cells, [given], against, by=by, average=average, delta=delta, level=level, samples=samples,
        corrected=corrected, seed=seed, batch_size=batch_size, progress=progress,
    )  # fmt: skip
    return table


@alone
def effects(
    fit: Fitted, cells: Cells | AnnData, several: Sequence[Conditions], against: Conditions, *, by: By | None = None,
    average: Over | None = None, delta: float = 0.25, level: float = 0.9, samples: int = 20, corrected: bool = False,
    seed: int = 0, batch_size: int = 512, progress: bool = True,
) -> list[pd.DataFrame]:  # fmt: skip
    """The table of ``effect`` for each of several conditions; the rates under ``against`` are computed once."""
    for given in several:
        if set(given) != set(against):
            raise ValueError(f"given sets {sorted(given)} and against {sorted(against)}: both set the same conditions")
    data, cells = cells, fit.read(cells)
    group = Groups(np.zeros(len(cells), int), ("",)) if by is None else groups_of(data, cells, by, "by")
    how: dict[str, Any] = {"corrected": corrected, "seed": seed, "batch_size": batch_size}
    under = [interventions(fit, len(cells), values, average) for values in (against, *several)]
    observed = unit_sums(fit, cells, _observed(cells, group.codes, against), **how, samples=1, progress=False)
    other, *ones = (
        unit_sums(fit, cells, group.codes, under=values, **how, samples=samples, progress=label if progress else False)
        for values, label in zip(under, ("without the effect", *("effect" for _ in several)), strict=True)
    )
    a_cell = observed.expected.sum(0) / observed.cells.sum()  # effective counts of each gene in a cell
    departures = 2 * observed.departures()
    tables = []
    for given, one in zip(several, ones, strict=True):
        rates = [np.maximum(sums.share, MIN_SHARE) / np.maximum(sums.cells, 1)[:, None] for sums in (one, other)]
        ratio = np.log2(rates[0] / rates[1])
        mean = ratio.mean(0)
        weights = sum(
            polygamma(1, _trained(fit, values) * counts + SHAPE)
            for values, counts in ((given, a_cell * 2 ** np.clip(mean, -30, 30)), (against, a_cell))
        )
        sd = np.sqrt(ratio.var(0) + (departures + weights) / np.log(2) ** 2)
        half = ndtri((1 + level) / 2) * sd
        groups = [
            pd.DataFrame(
                {
                    **({} if by is None else {"group": group.names[u]}),
                    "gene": list(fit.genes),
                    "log2_fold_change": mean[u],
                    "low": mean[u] - half[u],
                    "high": mean[u] + half[u],
                    "p_change": ndtr((mean[u] - delta) / sd[u]) + ndtr((-delta - mean[u]) / sd[u]),
                    "rate": RATE_UNIT * rates[0].mean(0)[u],
                    "rate_against": RATE_UNIT * rates[1].mean(0)[u],
                }
            ).sort_values("log2_fold_change", key=np.abs, ascending=False)
            for u in np.flatnonzero(one.cells > 0)
        ]
        tables.append(pd.concat(groups, ignore_index=True))
    return tables


def _trained(fit: Fitted, values: Conditions) -> float:
    """The number of cells of training under these conditions: of the rarest of their levels."""
    counts = fit.record.get("levels", {})
    every = fit.record.get("cells", {}).get("train", 1)
    return float(min([every, *(counts[name].get(str(level), 1) for name, level in values.items() if name in counts)]))


def _observed(cells: Cells, group: np.ndarray, given: Mapping[str, object]) -> np.ndarray:
    """The group of each cell, apart for each observed level of the conditions that are set [n]."""
    columns = [group, *(cells.categories[name].cpu().numpy() for name in given if name in cells.categories)]
    unit = np.unique(np.stack(columns), axis=1, return_inverse=True)[1].ravel()
    return np.where(group >= 0, unit, -1)
