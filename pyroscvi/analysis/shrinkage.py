"""Many genes at once: variances and effects of single genes, with priors that are estimated from all genes.

Variances follow [Smyth, 2004]: s_g^2 of d degrees of freedom has an inverse chi-square prior, which adds d0 degrees of
freedom. Effects follow [Stephens, 2017]: b_g ~ sum_k pi_k Normal(m, s_k^2) on a fixed grid, whose weights
pi maximise the likelihood of all estimates. Posteriors are then exact mixtures of normals.

References
    Smyth, G. K. (2004) Linear models and empirical Bayes methods for assessing differential expression in microarray
    experiments. Stat Appl Genet Mol Biol 3, 3. doi:10.2202/1544-6115.1027
    Stephens, M. (2017) False discovery rates: a new deal. Biostatistics 18, 275-294. doi:10.1093/biostatistics/kxw041
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, ndtr, ndtri, polygamma, stdtr  # scipy.stats takes a second to import

NULL_COUNT = 10.0  # prior observations of no effect: they make the weight of no effect larger
INFINITE_DF = 1e6  # degrees of freedom that stand for infinitely many


def moderated(variance: np.ndarray, df: int) -> tuple[np.ndarray, float]:
    """Posterior variances of genes, and their degrees of freedom; the prior is estimated from all of them."""
    from scipy.optimize import brentq  # it takes half a second to import

    usable = variance > 0
    if usable.sum() < 3:
        return variance, float(df)
    log = np.log(variance[usable]) - digamma(df / 2) + np.log(df / 2)
    excess = log.var(ddof=1) - polygamma(1, df / 2)
    if excess <= polygamma(1, INFINITE_DF / 2):
        return np.full_like(variance, np.exp(log.mean())), INFINITE_DF
    prior = 2 * brentq(lambda half: polygamma(1, half) - excess, 1e-3, INFINITE_DF)
    centre = np.exp(log.mean() + digamma(prior / 2) - np.log(prior / 2))
    return (prior * centre + df * variance) / (prior + df), prior + df


@dataclass(frozen=True)
class Effects:
    """Posteriors of effects, each a mixture of normals: weights, means and standard deviations [g, k]."""

    weight: np.ndarray
    mean_of: np.ndarray
    sd_of: np.ndarray

    def mean(self) -> np.ndarray:
        return (self.weight * self.mean_of).sum(1)

    def below(self, value: np.ndarray | float) -> np.ndarray:
        """The probability that an effect is at most ``value`` [g]."""
        distance = np.asarray(value, float).reshape(-1, 1) - self.mean_of
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(self.sd_of > 0, distance / self.sd_of, np.where(distance >= 0, np.inf, -np.inf))
        return (self.weight * ndtr(z)).sum(1)

    def beyond(self, delta: float) -> np.ndarray:
        """The probability that an effect is larger than ``delta``, or smaller than minus it [g]."""
        return np.clip(1 - self.below(delta) + self.below(np.nextafter(-delta, -np.inf)), 0, 1)

    def quantile(self, p: float) -> np.ndarray:
        """The quantile ``p`` of every effect [g], by bisection."""
        reach = np.abs(self.mean_of).max(1) + 40 * self.sd_of.max(1) + 1
        low, high = -reach, reach
        for _ in range(60):
            middle = (low + high) / 2
            left = self.below(middle) < p
            low, high = np.where(left, middle, low), np.where(left, high, middle)
        return high


def effects(estimate: np.ndarray, error: np.ndarray, df: float, least: float = 0.0) -> Effects:
    """Posteriors of the effects of genes from estimates [g] with standard errors [g] of ``df`` degrees of freedom.

    least   s_0, the smallest standard deviation on the grid: effects of this size count as no effect

    The centre m is the median of the estimates: shares sum to one, so a few genes that rise push all others down.
    """
    centre = np.median(estimate)
    estimate = estimate - centre
    sd = _normal_error(estimate, error, df)
    largest = 2 * np.sqrt(max((estimate**2 - sd**2).max(), (sd.min() / 4) ** 2))
    steps = int(np.ceil(2 * np.log2(largest / (sd.min() / 10)))) + 1
    grid = np.concatenate([[least], np.maximum(largest / np.sqrt(2) ** np.arange(steps)[::-1], least)])
    total = sd[:, None] ** 2 + grid**2
    log_p = -0.5 * (np.log(total) + estimate[:, None] ** 2 / total)
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    pi, prior = np.full(len(grid), 1 / len(grid)), np.r_[NULL_COUNT, np.ones(len(grid) - 1)] - 1
    for _ in range(300):
        r = pi * p
        pi = (r / r.sum(1, keepdims=True)).sum(0) + prior
        pi /= pi.sum()
    weight = pi * p
    shrunk = grid**2 / total
    return Effects(
        weight / weight.sum(1, keepdims=True), centre + shrunk * estimate[:, None], np.sqrt(shrunk) * sd[:, None]
    )


def expected_false_discoveries(probability: np.ndarray) -> np.ndarray:
    """The expected share of false discoveries if this gene and all with a higher probability are called [g]."""
    order = np.argsort(-probability, kind="stable")
    rate = np.empty(len(order))
    rate[order] = np.cumsum(1 - probability[order]) / np.arange(1, len(order) + 1)
    return rate


def _normal_error(estimate: np.ndarray, error: np.ndarray, df: float) -> np.ndarray:
    """Standard errors with which a normal test has the p-values of the t-test."""
    if df >= INFINITE_DF:
        return error
    ratio = np.maximum(np.abs(estimate / error), 0.1)
    tail = stdtr(df, -ratio)
    z = np.where(tail > 1e-290, -ndtri(np.maximum(tail, 1e-290)), ratio)
    return error * ratio / z
