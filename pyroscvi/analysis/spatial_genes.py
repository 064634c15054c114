"""Which genes vary in space: Moran's I of each, tested against cells that change places within their section.

References
    Cliff, A. D. and Ord, J. K. (1981) Spatial processes: models and applications. Pion, London
    Benjamini, Y. and Hochberg, Y. (1995) Controlling the false discovery rate. J R Stat Soc B 57, 289-300
"""

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import false_discovery_control, norm

from pyroscvi.advice import field
from pyroscvi.data.cells import Cells
from pyroscvi.data.predecessors import sections

LEAST = 4  # cells of a section: fewer have no variance of I


def spatial_genes(cells: Cells) -> pd.DataFrame:
    """One row for each gene, those that vary most surely in space first.

    I        Moran's I of log(1 + x), with x scaled to the median total: the correlation of a cell with its neighbours
    z        how many standard deviations I lies above its mean, if every order of the cells of a section is equally
             likely: mean and standard deviation are exact
    p_value  one-sided, by the normal distribution
    q_value  the false discovery rate by Benjamini and Hochberg, if this gene and those before it are called

    What is tested are shares of the total: if many genes rise together, the shares of others fall. Values are centred
    in every section, so that a difference between sections is not a pattern in space. A gene whose values are all equal
    has I = 0 and p = 1.
    """
    if cells.graph is None or not cells.graph.nnz:
        raise ValueError(f"these cells have no neighbours: read their coordinates with {field('spatial')}")
    n = len(cells)
    joined = sparse.csr_matrix(cells.graph[:n, :n], dtype=float, copy=True)
    joined.data[:] = 1  # also of cells at the same place, whose distance is 0
    total = cells.library.double().clamp(min=1)
    values = (cells.x.double() * (total.median() / total)).log1p().cpu().numpy()
    section = sections(joined)
    sums = np.zeros((3, values.shape[1]))
    for level in np.unique(section):
        own = np.flatnonzero(section == level)
        if len(own) >= LEAST:
            sums += _moran(values[own] - values[own].mean(0), sparse.csr_matrix(joined[own][:, own]))
    summed, expected, variance = sums
    varies = variance > 0
    z = np.divide(summed - expected, np.sqrt(variance), out=np.zeros_like(summed), where=varies)
    p = np.where(varies, norm.sf(z), 1.0)
    columns = {"I": summed / joined.sum(), "z": z, "p_value": p, "q_value": false_discovery_control(p)}
    return pd.DataFrame(columns, pd.Index(cells.genes, name="gene")).sort_values("z", ascending=False)


def _moran(y: np.ndarray, W: sparse.csr_matrix) -> np.ndarray:
    """S0 I of every gene, its mean and its variance over all orders of the cells [3, g], of centred values y [n, g]."""
    n, square = len(y), (y**2).sum(0)
    varies = square > 1e-12
    safe = np.where(varies, square, 1.0)
    kurtosis = n * (y**4).sum(0) / safe**2
    s0, s1 = W.sum(), (W + W.T).power(2).sum() / 2
    s2 = np.square(np.asarray(W.sum(1)).ravel() + np.asarray(W.sum(0)).ravel()).sum()
    normal = n * ((n**2 - 3 * n + 3) * s1 - n * s2 + 3 * s0**2)
    peaked = (n**2 - n) * s1 - 2 * n * s2 + 6 * s0**2
    second = (normal - kurtosis * peaked) / ((n - 1) * (n - 2) * (n - 3))
    mean = -s0 / (n - 1)
    return np.stack([np.where(varies, m, 0.0) for m in (n * (y * (W @ y)).sum(0) / safe, mean, second - mean**2)])
