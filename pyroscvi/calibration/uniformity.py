"""Are these ranks uniform? Bands that the whole of their distribution function stays in, and an exact p-value.

Of S ranks among 0 .. L, the number R_i below i is Binomial(S, i / (L + 1)), and R_1, R_2, ... is a Markov chain:

    R_{i+1} | R_i  ~  R_i + Binomial(S - R_i, 1 / (L + 1 - i))

A band is made of the central intervals of every R_i at one level, gamma, such that the chain stays within all of them
with the probability that is asked for; which is found by running it, with whatever has left the band left out. The
p-value of some ranks is the probability that a chain touches the narrowest band that does not hold theirs.

References
    Sailynoja, T., Burkner, P.-C. & Vehtari, A. (2022) Graphical test for discrete uniformity and its applications in
    goodness-of-fit evaluation and multiple sample comparison. Stat Comput 32, 32. doi:10.1007/s11222-022-10090-6
    Holm, S. (1979) A simple sequentially rejective multiple test procedure. Scand J Stat 6, 65-70.
"""

from functools import lru_cache

import numpy as np
from scipy.special import gammaln
from scipy.stats import binom

__all__ = ["band", "below", "holm", "p_value"]

BISECTIONS = 20
SURE = 1e-9  # below this an upper bound is as good as a p-value
ROUNDING = 1e-9  # tails that are alike by symmetry are taken to be equal


def below(ranks: np.ndarray, draws: int) -> np.ndarray:
    """How many ranks are below i, for i = 1 .. L [L]; of ranks [S] among 0 .. L."""
    return np.bincount(ranks, minlength=draws + 1).cumsum()[:-1]


def p_value(ranks: np.ndarray, draws: int) -> float:
    """The probability that uniform ranks stray as far, somewhere, as these [S] do."""
    here = np.arange(draws), below(ranks, draws)
    lower, upper = _tails(len(ranks), draws)
    gamma = 2 * float(np.minimum(lower[here], upper[here]).min())
    bound = draws * gamma  # Bonferroni's
    return bound if bound < SURE else float(np.clip(1 - _inside(gamma, len(ranks), draws), 0.0, 1.0))


@lru_cache(maxsize=32)
def band(simulations: int, draws: int, coverage: float = 0.99) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest counts of ``below`` that stay in the band [L], all of them with this probability."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        gamma = (low + high) / 2
        low, high = (gamma, high) if _inside(gamma, simulations, draws) >= coverage else (low, gamma)
    return _limits(low, simulations, draws)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values [m] made larger for there being m of them."""
    order = np.argsort(p)
    larger = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(larger, 1.0)
    return adjusted


@lru_cache(maxsize=4)
def _tails(simulations: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """P(R_i <= r) and P(R_i >= r) of every i and r [L, S + 1]."""
    r, share = np.arange(simulations + 1), np.arange(1, draws + 1)[:, None] / (draws + 1)
    return binom.cdf(r, simulations, share), binom.sf(r - 1, simulations, share)


def _limits(gamma: float, simulations: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest r of every i whose tails both hold more than gamma / 2 [L]."""
    lower, upper = (2 * tail > gamma * (1 + ROUNDING) for tail in _tails(simulations, draws))
    return lower.argmax(1), simulations - upper[:, ::-1].argmax(1)


def _inside(gamma: float, simulations: int, draws: int) -> float:
    """The probability that the chain stays within the central intervals of this level."""
    least, greatest = _limits(gamma, simulations, draws)
    if (least > greatest).any():
        return 0.0
    log_factorial = gammaln(np.arange(simulations + 1) + 1.0)
    r = np.arange(least[0], greatest[0] + 1)
    probability = binom.pmf(r, simulations, 1 / (draws + 1))
    for i in range(1, draws):
        then = np.arange(least[i], greatest[i] + 1)[:, None]
        more, share = then - r, 1 / (draws + 1 - i)
        log_p = log_factorial[simulations - r] - log_factorial[np.abs(more)] - log_factorial[simulations - then]
        log_p = log_p + more * np.log(share) + (simulations - then) * np.log1p(-share)
        probability = np.where(more >= 0, np.exp(log_p), 0.0) @ probability
        r = then[:, 0]
    return float(probability.sum())
