"""Stacking: the mixture of models that gives held-out cells the highest probability.

    w = argmax  1/N sum_n log sum_k w_k p_k(x_n),      w_k >= 0,  sum_k w_k = 1

A weight is neither the probability that a model is true nor a measure of its quality: of two models with the same
predictions one may have weight zero. It measures what a model adds to the others: a model that is worse on average but
explains some cells better has a positive weight. The objective is concave, and at its maximum
sum_n p_k(x_n) / p_w(x_n) is at most N for every k.

References
    Yao, Y., Vehtari, A., Simpson, D. & Gelman, A. (2018) Using stacking to average Bayesian predictive distributions.
    Bayesian Analysis 13, 917-1007. doi:10.1214/17-BA1091
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

MIN_WEIGHT = 1e-10  # a weight of zero has no logarithm
ZERO_BELOW = 1e-6


def stacking_weights(log_p: np.ndarray) -> np.ndarray:
    """Weights of k models [k], from the held-out log evidence of n cells under each of them [n, k].

    >>> stacking_weights(np.log([[0.5, 0.1], [0.1, 0.5]])).round(6)
    array([0.5, 0.5])
    """
    log_p = np.asarray(log_p, dtype=float)
    if log_p.ndim != 2 or not log_p.size:
        raise ValueError(f"stacking takes the log evidence of every cell under every model [n, k], not {log_p.shape}")
    if not np.isfinite(log_p).all():
        raise ValueError("stacking takes finite log evidences: a cell is impossible under one of the models")
    k = log_p.shape[1]
    if k == 1:
        return np.ones(1)
    log_p = log_p - log_p.max(1, keepdims=True)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        w = np.maximum(w, MIN_WEIGHT)  # a step of the optimiser may leave its bounds by a rounding error
        mixed = logsumexp(log_p, axis=1, b=w)
        return -mixed.mean(), -np.exp(log_p - mixed[:, None]).mean(0)

    optimum = minimize(
        loss, _start(log_p), jac=True, method="SLSQP", bounds=[(MIN_WEIGHT, 1.0)] * k,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": lambda w: np.ones(k)},
        options={"ftol": 1e-13, "maxiter": 500},
    )  # fmt: skip
    w = np.where(optimum.x < ZERO_BELOW, 0.0, optimum.x)
    return w / w.sum()


def _start(log_p: np.ndarray, steps: int = 50) -> np.ndarray:
    """Some steps of EM from equal weights: slow to arrive, and stable however far apart the models are."""
    w = np.full(log_p.shape[1], 1 / log_p.shape[1])
    for _ in range(steps):
        joint = log_p + np.log(np.maximum(w, MIN_WEIGHT))
        w = np.exp(joint - logsumexp(joint, axis=1, keepdims=True)).mean(0)
    return w
