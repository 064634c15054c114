"""Selection: how much better the best of several fits appears than it is, because it is the best.

Evidences have errors, and the fit with the most fortunate one is likely to come first. If m models were equally good,
their evidences would be normal around one value, with the covariance of their errors: that of the cells, which they
share, and between seeds, which are each model's own. The expected maximum of m such numbers is the optimism of the
choice. It grows with the number of models, and models that are nearly the same count as one.

References
    McLatchie, Y. & Vehtari, A. (2024) Efficient estimation and correction of selection-induced bias with order
    statistics. Statistics and Computing 34, 132. doi:10.1007/s11222-024-10442-4
    Piironen, J. & Vehtari, A. (2017) Comparison of Bayesian predictive methods for model selection. Statistics and
    Computing 27, 711-735. doi:10.1007/s11222-016-9649-y
"""

import numpy as np

from pyroscvi.comparison.paired import covariance

DRAWS = 20_000  # of the errors of all models: their mean maximum is then known to 1%


def optimism(log_evidence: np.ndarray, seed_error: np.ndarray, cluster: np.ndarray | None = None) -> float:
    """The expected optimism of the best of m equally good models, in nats a cell; NaN if the errors are unknown.

    log_evidence  of every cell under every model [n, m]
    seed_error    standard error of every model that is due to its seeds [m]
    cluster       number of the cluster of every cell [n]

    >>> cells = np.random.default_rng(0).normal(size=(10_000, 2))
    >>> round(optimism(cells, np.zeros(2)) * 100, 2)  # 100 pi^-1/2 times the error of a mean of 10,000
    0.57
    """
    centred = log_evidence - log_evidence.mean(1, keepdims=True)
    m = centred.shape[1]
    shared = np.eye(m) - 1 / m
    errors = covariance(centred, cluster) + shared @ np.diag(seed_error**2) @ shared
    if not np.isfinite(errors).all():
        return np.nan
    values, vectors = np.linalg.eigh(errors)
    draws = np.random.default_rng(0).standard_normal((DRAWS, m)) * np.sqrt(values.clip(min=0))
    return float((draws @ vectors.T).max(1).mean())
