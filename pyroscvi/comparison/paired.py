"""Paired differences: two models on the same cells, the standard error of the difference, and the verdict.

Cells differ from each other far more than models do, and a difference that is taken cell by cell does not contain that
variation. But cells of one donor are alike. If differences vary from donor to donor, a standard error over cells is too
small, at worst by the square root of the number of cells of a donor, and whole clusters are the independent units.

References
    Cameron, A. C. & Miller, D. L. (2015) A practitioner's guide to cluster-robust inference. Journal of Human Resources
    50, 317-372. doi:10.3368/jhr.50.2.317
"""

import numpy as np

from pyroscvi.data.cells import Cells

__all__ = ["MIN_ERRORS", "MIN_NATS", "clusters", "standard_error", "verdict"]

MIN_NATS = 4.0  # in total: a likelihood ratio of 55
MIN_ERRORS = 2.0


def standard_error(difference: np.ndarray, cluster: np.ndarray | None = None) -> np.ndarray:
    """Standard error of the mean over cells of differences [n, ...], for each column; NaN for one cell or one cluster.

    cluster  number of the cluster of every cell [n]: the error is then that of sums over whole clusters
    """
    residual = difference - difference.mean(0)
    if cluster is None:
        sums = residual
    else:
        sums = np.zeros((cluster.max() + 1, *difference.shape[1:]))
        np.add.at(sums, cluster, residual)
    c, n = len(sums), len(difference)
    if c == 1:
        return np.full(difference.shape[1:], np.nan)
    return np.sqrt(c / (c - 1) * (sums**2).sum(0)) / n


def verdict(mean: float, error: float, cells: int) -> str:
    """ "told apart", or "indistinguishable": below 4 nats in total or 2 standard errors, or of unknown error.

    >>> verdict(-0.5, 0.1, cells=100), verdict(-0.5, 0.3, cells=100), verdict(-0.5, 0.1, cells=7)
    ('told apart', 'indistinguishable', 'indistinguishable')
    """
    apart = abs(mean) * cells >= MIN_NATS and abs(mean) >= MIN_ERRORS * error
    return "told apart" if apart else "indistinguishable"


def clusters(cells: Cells, by: str) -> np.ndarray:
    """The number of the cluster of every cell [n], 0 and up; cells whose level is unknown (-1) are one cluster."""
    if by not in cells.categories:
        raise KeyError(f"no categorical field {by!r} to cluster by; there are {sorted(cells.categories)}")
    _, cluster = np.unique(cells.categories[by].cpu().numpy(), return_inverse=True)
    if cluster.max() == 0:
        raise ValueError(f"all cells are of one {by}: there is no error over clusters; leave by= out")
    return cluster
