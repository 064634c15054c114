"""How logprob.csv was made: log-probabilities and their slopes to 25 digits, by the textbook in 50-digit arithmetic.

    python tests/reference/make_logprob.py tests/reference/logprob.csv

Every parameter is rounded to float32 first, and no count is above 2^24: what is read back is what was meant, in either
precision. A slope is d log p / d parameter, not d / d log parameter.
"""

import csv
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import mpmath as mp
import numpy as np

COLUMNS = ["dist", "x", "mu", "theta", "gate_logit", "logprob", "dlogp_dmu", "dlogp_dtheta", "dlogp_dgate"]
GATES = (-50, -10, -2, 0, 2, 10, 50)
FEW_X, FEW_MU, FEW_THETA = (0, 1, 10, 10**4), (1e-8, 1e-4, 0.1, 1, 100, 1e5), (1e-6, 0.01, 1, 100, 1e6, 1e10)
MANY_X = (0, 1, 2, 3, 5, 10, 30, *(10**k for k in range(2, 8)))
MANY_MU = (1e-8, 1e-6, 1e-4, 0.01, 0.1, *(10.0**k for k in range(8)))
MANY_THETA = (1e-8, 1e-6, 1e-4, 0.01, 0.1, 0.5, 1, 2, 10, 100, 1e3, 1e4, 1e6, 1e8, 1e10)

Exact = tuple[mp.mpf, ...]


def single(value: float) -> float:
    return float(np.float32(value))


def poisson(x: int, mu: float) -> Exact:
    """log p and d / d mu."""
    m = mp.mpf(mu)
    return x * mp.log(m) - m - mp.loggamma(x + 1), x / m - 1


def negative_binomial(x: int, mu: float, theta: float) -> Exact:
    """log p, d / d mu and d / d theta."""
    m, t = mp.mpf(mu), mp.mpf(theta)
    success = mp.log(t / (t + m))
    log_p = mp.loggamma(x + t) - mp.loggamma(t) - mp.loggamma(x + 1) + t * success + x * mp.log(m / (t + m))
    return log_p, t * (x - m) / (m * (t + m)), mp.digamma(x + t) - mp.digamma(t) + success + (m - x) / (m + t)


def zero_inflated(x: int, gate: float, inner: Exact) -> Exact:
    """log p, the inner slopes, and d / d gate."""
    log_p, *slopes = inner
    extra = 1 / (1 + mp.exp(-mp.mpf(gate)))
    if x:
        return log_p - mp.log1p(mp.exp(mp.mpf(gate))), *slopes, -extra
    inner_zero = mp.exp(log_p)
    zero = extra + (1 - extra) * inner_zero
    weight = (1 - extra) * inner_zero / zero
    return mp.log(zero), *(weight * s for s in slopes), extra * (1 - extra) * (1 - inner_zero) / zero


def rows() -> Iterator[list[str]]:
    def row(dist: str, x: int, mu: float, theta: float | None, gate: int | None, exact: Exact) -> list[str]:
        log_p, d_mu, *rest = (mp.nstr(value, 25, strip_zeros=False) for value in exact)
        d_theta = "" if theta is None else rest.pop(0)
        shown = ("" if theta is None else repr(theta), "" if gate is None else str(gate))
        return [dist, str(x), repr(mu), *shown, log_p, d_mu, d_theta, *(rest or [""])]

    for x, mu, theta in product(MANY_X, map(single, MANY_MU), map(single, MANY_THETA)):
        yield row("nb", x, mu, theta, None, negative_binomial(x, mu, theta))
    for x, mu in product(MANY_X, map(single, MANY_MU)):
        yield row("poisson", x, mu, None, None, poisson(x, mu))
    for x, mu, theta, gate in product(FEW_X, map(single, FEW_MU), map(single, FEW_THETA), GATES):
        yield row("zinb", x, mu, theta, gate, zero_inflated(x, gate, negative_binomial(x, mu, theta)))
    for x, mu, gate in product(FEW_X, map(single, FEW_MU), GATES):
        yield row("zip", x, mu, None, gate, zero_inflated(x, gate, poisson(x, mu)))


if __name__ == "__main__":
    with mp.workdps(50), Path(sys.argv[1]).open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows()])
