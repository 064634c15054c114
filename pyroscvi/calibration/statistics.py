"""Statistics of a matrix of counts, to compare a data set with its replicates."""

from collections.abc import Callable, Mapping

import numpy as np

__all__ = ["Statistic", "statistics"]

Statistic = Callable[[np.ndarray], np.ndarray]
GENES = 40  # with the largest variance: their correlations are compared


def statistics(counts: np.ndarray) -> Mapping[str, Statistic]:
    """Functions of counts [n, g] to numbers of every gene [g], cell [n] or pair of genes.

    counts  the observed ones: correlations are between the genes that vary most in them
    """
    spread = np.log1p(counts).var(0)
    genes = np.sort(np.argsort(-spread, kind="stable")[:GENES])
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
