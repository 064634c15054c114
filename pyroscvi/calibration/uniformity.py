"""Tests of uniform ranks: simultaneous bands for their distribution function, and an exact p-value.

Of S ranks among 0 .. L, the number R_i below i is Binomial(S, i / (L + 1)), and R_1, R_2, ... is a Markov chain:

    R_{i+1} | R_i  ~  R_i + Binomial(S - R_i, 1 / (L + 1 - i))

A band consists of the central intervals of all R_i at one level, gamma. The level is chosen so that the chain stays
within all intervals with the given probability. That probability comes from running the chain and dropping the paths
that leave the band. The p-value of some ranks is the probability that a chain is as extreme, somewhere, as they are.

References
    Sailynoja, T., Burkner, P.-C. & Vehtari, A. (2022) Graphical test for discrete uniformity and its applications in
    goodness-of-fit evaluation and multiple sample comparison. Stat Comput 32, 32. doi:10.1007/s11222-022-10090-6
    Holm, S. (1979) A simple sequentially rejective multiple test procedure. Scand J Stat 6, 65-70.
"""

from functools import lru_cache

import numpy as np
from scipy.special import bdtr, bdtrc, gammaln  # scipy.stats has these too, but takes a second to import

BISECTIONS = 20
MIN_P = 1e-9  # below it an upper bound is as good as a p-value
ROUNDING = 1e-9  # tails that are equal by symmetry are treated as equal


def below(ranks: np.ndarray, draws: int) -> np.ndarray:
    """How many of the ranks [S] are below i, for i = 1 .. L [L]."""
    return np.bincount(ranks, minlength=draws + 1).cumsum()[:-1]


def p_value(ranks: np.ndarray, draws: int) -> float:
    """The probability that uniform ranks are as extreme, somewhere, as these [S]."""
    observed = np.arange(draws), below(ranks, draws)
    lower, upper = _tails(len(ranks), draws)
    gamma = 2 * float(np.minimum(lower[observed], upper[observed]).min())
    bound = draws * gamma  # Bonferroni's
    return bound if bound < MIN_P else float(np.clip(1 - _inside(gamma, len(ranks), draws), 0.0, 1.0))


@lru_cache(maxsize=32)
def band(simulations: int, draws: int, coverage: float = 0.99) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest values of ``below`` inside the band [L], which contains all with this probability."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        gamma = (low + high) / 2
        low, high = (gamma, high) if _inside(gamma, simulations, draws) >= coverage else (low, gamma)
    return _limits(low, simulations, draws)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values [m], corrected for m tests by the method of Holm."""
    order = np.argsort(p)
    larger = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(larger, 1.0)
    return adjusted


@lru_cache(maxsize=4)
def _tails(simulations: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """P(R_i <= r) and P(R_i >= r) for every i and r [L, S + 1]."""
    r, share = np.arange(simulations + 1), np.arange(1, draws + 1)[:, None] / (draws + 1)
    return bdtr(r, simulations, share), bdtrc(r - 1, simulations, share)


def _limits(gamma: float, simulations: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """For every i the least and the greatest r whose tail probabilities both exceed gamma / 2 [L]."""
    lower, upper = (2 * tail > gamma * (1 + ROUNDING) for tail in _tails(simulations, draws))
    return lower.argmax(1), simulations - upper[:, ::-1].argmax(1)


def _inside(gamma: float, simulations: int, draws: int) -> float:
    """The probability that the chain stays within the central intervals of this level."""
    least, greatest = _limits(gamma, simulations, draws)
    if (least > greatest).any():
        return 0.0
    log_factorial = gammaln(np.arange(simulations + 1) + 1.0)
    r, probability = np.zeros(1, dtype=int), np.ones(1)
    for i in range(draws):
        following = np.arange(least[i], greatest[i] + 1)[:, None]
        more, share = following - r, 1 / (draws + 1 - i)
        log_p = log_factorial[simulations - r] - log_factorial[np.abs(more)] - log_factorial[simulations - following]
        log_p = log_p + more * np.log(share) + (simulations - following) * np.log1p(-share)
        probability = np.where(more >= 0, np.exp(log_p), 0.0) @ probability
        r = following[:, 0]
    return float(probability.sum())
