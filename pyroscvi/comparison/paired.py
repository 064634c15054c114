"""Paired differences: two models on the same cells, the standard error of the difference, and the verdict.

Cells differ from each other far more than models do, and a difference that is taken cell by cell does not contain that
variation. But cells of one donor are alike. If differences vary from donor to donor, a standard error over cells is too
small, at worst by the square root of the number of cells of a donor, and whole clusters are the independent units.
Fits with other seeds are other fits. For models a and b with S_a and S_b seeds the standard error of the difference is

    se^2 = v + s_a^2 / S_a + s_b^2 / S_b

    v    variance of the mean of the differences over C cells (or clusters), where a cell has its mean over seeds
    s_k  standard deviation between the seeds of model k of its evidence, the mean over cells

Few seeds estimate s_k badly, so that a normal distribution would give intervals that are too narrow. The interval is
difference +- t se, where t is the quantile of Student's t distribution with

    df = se^4 / (v^2 / (C - 1) + (s_a^2 / S_a)^2 / (S_a - 1) + (s_b^2 / S_b)^2 / (S_b - 1))

degrees of freedom (Welch and Satterthwaite), at the level of two standard errors of a normal distribution: 95.4%.
Every model has its own s_k: docs/decisions.md says why the models do not share one.

References
    Cameron, A. C. & Miller, D. L. (2015) A practitioner's guide to cluster-robust inference. Journal of Human Resources
    50, 317-372. doi:10.3368/jhr.50.2.317
    Welch, B. L. (1947) The generalization of "Student's" problem when several different population variances are
    involved. Biometrika 34, 28-35. doi:10.1093/biomet/34.1-2.28
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

from pyroscvi.comparison.refits import Refitted
from pyroscvi.data.cells import Cells

MIN_NATS = 4.0  # in total: a likelihood ratio of 55
LEVEL = float(2 * ndtr(-2))  # of a test, and one minus that of an interval: two standard errors of a normal


class Paired(NamedTuple):
    """The difference of two models in nats a cell, and its errors; ``compare`` explains them."""

    difference: float = 0.0
    standard_error: float = 0.0
    interval: float = 0.0
    over_cells: float = 0.0
    over_clusters: float = np.nan
    monte_carlo: float = 0.0


def paired(a: Refitted, b: Refitted, cluster: np.ndarray | None = None, level: float = LEVEL) -> Paired:
    """The evidence of a less that of b. A model with one seed adds nothing to the error: what it would add is unknown.

    cluster  number of the cluster of every cell [n]
    level    one minus the probability of the interval
    """
    difference = a.log_evidence - b.log_evidence
    over_cells = float(standard_error(difference))
    over_clusters = np.nan if cluster is None else float(standard_error(difference, cluster))
    units = len(difference) if cluster is None else int(cluster.max()) + 1
    parts = [(over_cells if cluster is None else over_clusters, units), *((one.error, one.seeds) for one in (a, b))]
    variance = np.array([error**2 for error, _ in parts])
    spread = sum(v**2 / max(n - 1, 1) for v, (_, n) in zip(variance, parts, strict=True))
    error = float(np.sqrt(variance.sum()))
    degrees = variance.sum() ** 2 / spread if spread > 0 else np.inf
    draws = np.concatenate([a.monte_carlo_se, b.monte_carlo_se])
    return Paired(
        difference=float(difference.mean()),
        standard_error=error,
        interval=float(stdtrit(degrees, 1 - level / 2) * error) if np.isfinite(error) else np.nan,
        over_cells=over_cells,
        over_clusters=over_clusters,
        monte_carlo=float(np.sqrt((draws**2).sum()) / len(difference)),
    )


def standard_error(difference: np.ndarray, cluster: np.ndarray | None = None) -> np.ndarray:
    """Standard error of the mean over cells of differences [n, ...], for each column; NaN for one cell or one cluster.

    cluster  number of the cluster of every cell [n]: the error is then that of sums over whole clusters
    """
    sums = _sums(difference, cluster)
    c, n = len(sums), len(difference)
    if c == 1:
        return np.full(difference.shape[1:], np.nan)
    return np.sqrt(c / (c - 1) * (sums**2).sum(0)) / n


def covariance(columns: np.ndarray, cluster: np.ndarray | None = None) -> np.ndarray:
    """Covariance of the means over cells of columns [n, m], as ``standard_error`` has their errors [m, m]."""
    sums = _sums(columns, cluster)
    c, n = len(sums), len(columns)
    return np.full((columns.shape[1],) * 2, np.nan) if c == 1 else c / (c - 1) * sums.T @ sums / n**2


def _sums(values: np.ndarray, cluster: np.ndarray | None) -> np.ndarray:
    """Deviations from the mean over cells, of every cell, or summed over every cluster."""
    deviations = values - values.mean(0)
    if cluster is None:
        return deviations
    sums = np.zeros((cluster.max() + 1, *values.shape[1:]))
    np.add.at(sums, cluster, deviations)
    return sums


def verdict(difference: Paired, cells: int) -> str:
    """ "told apart", or "indistinguishable": below 4 nats in total, inside the interval around 0, or of unknown error.

    >>> verdict(Paired(-0.5, 0.1, 0.2), cells=100), verdict(Paired(-0.5, 0.3, 0.6), cells=100)
    ('told apart', 'indistinguishable')
    >>> verdict(Paired(-0.5, 0.1, 0.2), cells=7)
    'indistinguishable'
    """
    size = abs(difference.difference)
    return "told apart" if size * cells >= MIN_NATS and size >= difference.interval else "indistinguishable"


def clusters(cells: Cells, by: str) -> np.ndarray:
    """The number of the cluster of every cell [n], 0 and up; cells whose level is unknown (-1) are one cluster."""
    if by not in cells.categories:
        raise KeyError(f"no categorical field {by!r} to cluster by; there are {sorted(cells.categories)}")
    _, cluster = np.unique(cells.categories[by].cpu().numpy(), return_inverse=True)
    if cluster.max() == 0:
        raise ValueError(f"all cells are of one {by}: there is no error over clusters; leave by= out")
    return cluster
