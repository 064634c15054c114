"""Differential expression: which genes change between groups of cells, by how much, and with which probability.

    fit.differential(adata, "cell_type", donor="donor")                     every type against the rest
    fit.differential(adata, "condition", reference="ctrl", within="cell_type", donor="donor")

The unit is the donor, if donors are given. Cells of one donor are not independent of each other, and a test that
treats them as independent finds differences between any two groups of donors. The log rate of a gene is estimated for
every donor and group (``unit_rates``). It varies between donors with a variance that is estimated too, and moderated by
that of all genes. If two donors or more are in both groups, each is compared with itself, and the others are left out.
Without donors, intervals hold for more cells of the same donors, not for other donors.

Batches that the model reads are averaged out: every unit is seen under the same batches. If no batch is in two groups,
this would remove the change of interest: cells then keep their own batch, and a warning says so.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from pyroscvi.advice import either
from pyroscvi.analysis.groups import REST, By, Groups, groups_of, wanted
from pyroscvi.analysis.posterior import fields_read
from pyroscvi.analysis.shrinkage import INFINITE_DF, effects, expected_false_discoveries, moderated
from pyroscvi.analysis.unit_rates import RATE_UNIT, UnitSums, unit_sums
from pyroscvi.data.cells import Cells
from pyroscvi.names import listed
from pyroscvi.program import Fitted
from pyroscvi.pyro_internals import alone

MAX_LEVELS = 50  # of a field that is averaged over
SHOWN = [  # in reports
    "gene", "log2_fold_change", "low", "high", "p_change", "expected_fdr", "rate_group", "rate_reference",
]  # fmt: skip


@alone
def differential(
    fit: Fitted, cells: Cells | AnnData, groupby: By, groups: str | Sequence[str] | None = None,
    reference: str = REST, *, donor: By | None = None, within: By | None = None, average: str | None = "batch",
    delta: float = 0.25, fdr: float = 0.05, level: float = 0.9, samples: int = 10, corrected: bool = False,
    seed: int = 0, batch_size: int = 512, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Genes whose mean rate changes between groups of cells, with the best evidence first.

    groupby     what makes the groups: a column of obs, a field of the fit ("label"), or one value for each cell
    groups      names of the groups to compare with the reference; None takes every group
    reference   the name of a group, or "rest": all other cells
    donor       column, field or values: the donor of each cell. Give it whenever there are several: intervals then
                contain the variation between donors
    within      column, field or values: compare within each of its levels, such as conditions within each cell type
    average     a field of the model whose levels are averaged out; None keeps the level of each cell
    delta       a change of log2 rate up to this size counts as none (the region of practical equivalence)
    fdr         expected share of false discoveries among the genes that are called ``changed``
    level       probability of the interval from ``low`` to ``high``
    samples     posterior samples of the state of each cell
    corrected   sample the exact posterior by importance resampling, not the guide

    One row for each comparison and gene: (within), group, reference, gene, and

    log2_fold_change  posterior mean of log2 of the ratio of rates, group to reference
    low, high         its posterior interval
    p_change          posterior probability of a change beyond ``delta``
    expected_fdr      expected share of false discoveries if this gene and all genes before it are called
    changed           whether this share is at most ``fdr``, and a change is more probable than none
    estimate          the same log ratio without the prior of all genes, and its ``standard_error``
    rate_group        posterior mean rate per 10,000 counts, and ``rate_reference``
    donors            number of donors; of pairs if each is compared with itself; 0 without donors

    Raises KeyError for an unknown column, and ValueError for an unknown group or where donors cannot be compared.
    """
    if delta < 0 or not 0 < level < 1 or not 0 < fdr < 1 or samples < 1:
        raise ValueError("delta must not be negative, level and fdr lie between 0 and 1, and samples is at least 1")
    data, cells = cells, fit.read(cells)
    group = groups_of(data, cells, groupby, "groupby")
    inside = Groups(np.zeros(len(cells), int), ("",)) if within is None else groups_of(data, cells, within, "within")
    unit_of = Groups(np.zeros(len(cells), int), ("",)) if donor is None else groups_of(data, cells, donor, "donor")
    under = _averaged(fit, cells, average, group, samples, donor is None)
    codes = np.stack([inside.codes, group.codes, unit_of.codes])
    known = (codes >= 0).all(0)
    if not known.any():
        raise ValueError("no cell has a group (and a level of within, and a donor)")
    units, place = np.unique(codes[:, known], axis=1, return_inverse=True)
    unit = np.full(len(cells), -1)
    unit[known] = place.ravel()
    sums = unit_sums(
        fit, cells, unit, under=under, samples=samples, corrected=corrected, seed=seed, batch_size=batch_size,
        progress="differential expression" if progress else False,
    )  # fmt: skip
    tables = []
    for where in np.unique(units[0]):
        for one, other in wanted(group, groups, reference):
            a = (units[0] == where) & (units[1] == one)
            b = (units[0] == where) & (units[1] == other if other is not None else units[1] != one)
            if not (a.any() and b.any()):
                continue
            names = {"group": group.names[one], "reference": REST if other is None else group.names[other]}
            if within is not None:
                names = {"within": inside.names[where], **names}
            comparison = _compared(sums, units[2], a, b, donor is not None, " in ".join(reversed(list(names.values()))))
            tables.append(_table(comparison, fit.genes, names, delta, fdr, level))
    if not tables:
        raise ValueError(f"there is no group to compare with {reference!r}: groups are {listed(group.names)}")
    return pd.concat(tables, ignore_index=True)


def _averaged(
    fit: Fitted, cells: Cells, field: str | None, group: Groups, samples: int, no_donors: bool
) -> list[dict[str, torch.Tensor]]:
    """Every level of the field to average over, as interventions, at most 50 of them; {} keeps that of each cell.

    It is kept where the model does not read the field, and where each level lies in one group only.
    """
    if field is None or field not in cells.categories or field not in fields_read(fit, cells):
        return [{}]
    pairs = pd.DataFrame({"level": cells.categories[field].cpu().numpy(), "group": group.codes})
    pairs = pairs[(pairs >= 0).all(axis=1)].drop_duplicates()
    if len(pairs) and pairs["group"].nunique() > 1 and not pairs["level"].duplicated().any():
        name_donors = f". If a {field} is a sample of a donor, name the donors: {either('donor=...', '--donor ...')}"
        warnings.warn(
            f"no {field} has cells of two groups, so a change between groups cannot be separated from one between "
            f"levels of {field}: each cell keeps its own {field}{name_donors if no_donors else ''}",
            stacklevel=4,
        )
        return [{}]
    levels = cells.categories[field].unique().cpu()
    levels = levels[levels >= 0]
    spread = torch.linspace(0, len(levels) - 1, min(len(levels), max(samples, MAX_LEVELS))).round().long()
    return [{field: level.expand(len(cells))} for level in levels[spread]]


def _compared(sums: UnitSums, donor: np.ndarray, a: np.ndarray, b: np.ndarray, by_donor: bool, what: str) -> tuple:
    """Log ratio of the rates of two groups of units, its standard error and degrees of freedom; rates; donors."""
    donors = {"a": np.unique(donor[a]), "b": np.unique(donor[b])}
    unit = np.full(len(donor), -1)
    unit[a] = np.searchsorted(donors["a"], donor[a])
    unit[b] = len(donors["a"]) + np.searchsorted(donors["b"], donor[b])
    y, v = sums.merged(unit).log_rates()
    y_a, y_b, v_a, v_b = y[: len(donors["a"])], y[len(donors["a"]) :], v[: len(donors["a"])], v[len(donors["a"]) :]
    if not by_donor:
        return y_a[0] - y_b[0], np.sqrt(v_a[0] + v_b[0]), INFINITE_DF, y_a[0], y_b[0], 0
    both, in_a, in_b = np.intersect1d(donors["a"], donors["b"], return_indices=True)
    if len(both) > 1:
        difference, variance = y_a[in_a] - y_b[in_b], v_a[in_a] + v_b[in_b]
        (mean,), error, df = _random_effects([(difference, variance)])
        return mean, error, df, y_a[in_a].mean(0), y_b[in_b].mean(0), len(both)
    if len(y) < 3:
        raise ValueError(
            f"{what}: one donor in each group, so nothing shows how much donors vary. Without donor= intervals "
            "hold for more cells of these donors, not for other donors"
        )
    (mean_a, mean_b), error, df = _random_effects([(y_a, v_a), (y_b, v_b)])
    return mean_a - mean_b, error, df, mean_a, mean_b, len(np.union1d(donors["a"], donors["b"]))


def _random_effects(groups: list[tuple[np.ndarray, np.ndarray]]) -> tuple[list[np.ndarray], np.ndarray, float]:
    """Weighted means of groups of units, the standard error of their sum or difference, and degrees of freedom.

    groups   log rates y and their variances v, both [units, g]

    A unit has the weight 1 / (v + t^2), with the variance t^2 between units of a typical gene. The variance of a gene,
    relative to these weights, is estimated by its residuals, and moderated by that of all genes.
    """
    df = sum(len(y) - 1 for y, _ in groups)
    raw = sum(((y - y.mean(0)) ** 2).sum(0) for y, _ in groups) / df
    noise = sum(v.sum(0) for _, v in groups) / sum(len(v) for _, v in groups)
    between = max(float(np.median(np.maximum(raw - noise, 0))), 1e-4)
    genes = groups[0][0].shape[1]
    means, residual, inverse = [], np.zeros(genes), np.zeros(genes)
    for y, v in groups:
        w = 1 / (v + between)
        mean = (w * y).sum(0) / w.sum(0)
        residual += (w * (y - mean) ** 2).sum(0)
        inverse += 1 / w.sum(0)
        means.append(mean)
    variance, freedom = moderated(residual / df, df)
    return means, np.sqrt(variance * inverse), freedom


def _table(
    comparison: tuple, genes: Sequence[str], names: dict[str, str], delta: float, fdr: float, level: float
) -> pd.DataFrame:
    difference, error, df, rate, rate_reference, donors = comparison
    estimate, error = difference / np.log(2), error / np.log(2)
    posterior = effects(estimate, error, df, least=delta / 4)
    p = posterior.beyond(delta)
    expected = expected_false_discoveries(p)
    table = pd.DataFrame(
        {
            **names,
            "gene": list(genes),
            "log2_fold_change": posterior.mean(),
            "low": posterior.quantile((1 - level) / 2),
            "high": posterior.quantile((1 + level) / 2),
            "p_change": p,
            "expected_fdr": expected,
            "changed": (expected <= fdr) & (p > 0.5),
            "estimate": estimate,
            "standard_error": error,
            "rate_group": RATE_UNIT * np.exp(rate),
            "rate_reference": RATE_UNIT * np.exp(rate_reference),
            "donors": donors,
        }
    )
    z = np.abs(estimate / error)
    return table.assign(z=z).sort_values(["p_change", "z"], ascending=False).drop(columns="z")
