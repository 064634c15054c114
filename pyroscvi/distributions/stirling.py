r"""The error of Stirling's formula for log Gamma, which is Binet's function J, and the slope of J.

    log Gamma(a) = (a - 1/2) log a - a + log(2 pi) / 2 + J(a)            J(a) = 1/(12 a) - 1/(360 a^3) + ...
    digamma(a)   = log a - 1/(2 a) + J'(a)                               J'(a) = -1/(12 a^2) + 1/(120 a^4) - ...

For large theta, log Gamma(x + theta) - log Gamma(theta) loses digits, because the leading terms are almost equal. In
terms of J the leading terms cancel analytically, and J is small and smooth.

Both functions are Stieltjes continued fractions in 1/a^2 (Abramowitz and Stegun 1964, 6.1.48; the one of J' follows
from the Bernoulli numbers in the same way). Their seventh convergents are ratios of two cubics with positive
coefficients, in which nothing cancels. Their error is 1e-8 for a >= 2 and 1e-16 for a >= 8. For a smaller a, the
recurrence of the gamma function gives J(a) from J(a + 2) or J(a + 8).
"""

from itertools import zip_longest

import torch
from torch import Tensor

# Continued fractions c0 / (1 + c1 z / (1 + c2 z / ...)) of J(a) a and of -J'(a) a^2, where z = 1/a^2.
BINET = (1 / 12, 1 / 30, 53 / 210, 195 / 371, 22999 / 22737, 29944523 / 19733142, 109535241009 / 48264275462)
SLOPE = (1 / 12, 1 / 10, 79 / 210, 1205 / 1659, 262445 / 209429, 33461119209 / 18089284070,
         361969913862291 / 137627660760070)  # fmt: skip

# Below this a the recurrence is used; from here on the convergents have the precision of the dtype.
STEPS = {torch.float32: 2, torch.float64: 8}


def _convergent(c: tuple[float, ...]) -> tuple[list[float], list[float]]:
    """The polynomials P, Q (constant term first) with P(z) / Q(z) = c0 / (1 + c1 z / (1 + c2 z / ...))."""
    p, q = [1.0], [1.0]
    for ck in reversed(c[1:]):  # 1 + ck z / (p / q) = (p + ck z q) / p
        p, q = [a + ck * b for a, b in zip_longest(p, [0.0, *q], fillvalue=0.0)], p
    return [c[0] * b for b in q], p


BINET_RATIO, SLOPE_RATIO = _convergent(BINET), _convergent(SLOPE)


def horner(coefficients: list[float], z: Tensor) -> Tensor:
    """coefficients[0] + coefficients[1] z + coefficients[2] z^2 + ..."""
    *rest, last = coefficients
    total = torch.full_like(z, last)
    for c in reversed(rest):
        total.mul_(z).add_(c)
    return total


def _ratio(polynomials: tuple[list[float], list[float]], z: Tensor) -> Tensor:
    above, below = polynomials
    return horner(above, z).div_(horner(below, z))


def binet(a: Tensor) -> Tensor:
    """J(a) for a > 0, of any shape."""
    m = STEPS[a.dtype]
    low = _below(a, m)
    y = torch.add(a, low, alpha=m).reciprocal_()
    high = _ratio(BINET_RATIO, y * y).mul_(y)
    # J(a) - J(a + m) = (a + 1/2) log(1 + m/a) - m - sum_{i=1}^{m-1} log((a + i) / (a + m))
    top = a + m
    product = (a + 1).div_(top)
    for i in range(2, m):
        product.mul_((a + i).div_(top))
    difference = (m / a).log1p_().mul_(a + 0.5).sub_(m).sub_(product.log_())
    return high.addcmul_(low, difference)


def binet_slope(a: Tensor) -> Tensor:
    """J'(a) for a > 0, of any shape."""
    m = STEPS[a.dtype]
    low = _below(a, m)
    y = torch.add(a, low, alpha=m)
    z = y.mul_(y).reciprocal_()
    high = _ratio(SLOPE_RATIO, z).mul_(z).neg_()
    # J'(a) - J'(a + m) = log(1 + m/a) - sum_{i=0}^{m-1} (1/(a + i) + 1/(a + i + 1)) / 2
    difference = (m / a).log1p_()
    for i in range(m + 1):
        difference.sub_((a + i).reciprocal_(), alpha=0.5 if i in (0, m) else 1.0)
    return high.addcmul_(low, difference)


def _below(a: Tensor, bound: float) -> Tensor:
    """1 where a < bound, otherwise 0. On a processor, multiplying by it is ten times as fast as torch.where."""
    return a.clone().lt_(bound)
