r"""The Poisson and the negative binomial at counts above zero, in deviance form (Loader 2000).

The textbook formula is a sum of terms near x log x which cancel to a number near log x: in float32 the sum over a cell
is then wrong by whole nats. Loader's form measures the distance to the best fit mu = x instead, and nothing cancels:

    log Poisson(x | mu)    = - x h(u) - J(x) - log(2 pi x) / 2                                       u = (x - mu) / x
    log NB(x | mu, theta)  = - x h(u) - J(x) - log(2 pi x) / 2
                             - theta h(w) + J(x + theta) - J(theta) - log(1 + x/theta) / 2
                                                u = theta (x - mu) / ((theta + mu) x),  w = (mu - x) / (theta + mu)

where h(u) = -log(1 - u) - u >= 0 vanishes like u^2 / 2, and J is the error of Stirling's formula (``stirling``). As
theta grows, the second line of the negative binomial vanishes and the first becomes the Poisson, to the last digit.

The terms without h are the log-probability of the best fit, mu = x. They do not depend on mu, so particles share them.

In the slopes nothing cancels either, because u and w are stationary at the best fit:

    d/d log mu     = theta (x - mu) / (theta + mu)
    d/d log theta  = - theta h(w) + x / (2 (x + theta)) + theta (J'(x + theta) - J'(theta))

Loader, C. (2000) Fast and accurate computation of binomial probabilities.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyroscvi.distributions.stirling import binet, binet_slope, horner

# Coefficients of 1/3 + s/5 + s^2/7 + ..., as many as the dtype needs for s = v^2 < 0.09.
ATANH_TAIL = {dtype: [1 / (2 * k + 3) for k in range(n)] for dtype, n in ((torch.float32, 6), (torch.float64, 14))}

MU_MIN = 2.0**-90  # for a smaller mean x / mu might overflow
LOG_MU_MIN = math.log(MU_MIN)


class Above(NamedTuple):
    """log p of counts above zero and its slopes, all of one shape."""

    log_p: Tensor
    d_log_mu: Tensor
    d_log_theta: Tensor | None = None


def best_poisson(x: Tensor) -> Tensor:
    """log Poisson(x | x) at x > 0: the maximum over all means."""
    return (x * (2 * math.pi)).log_().mul_(-0.5).sub_(binet(x))


def best_negative_binomial(x: Tensor, theta: Tensor, j: Tensor) -> Tensor:
    """log NB(x | x, theta) at x > 0: the maximum over all means. j is J(theta)."""
    return best_poisson(x).add_(binet(theta + x)).sub_(j).sub_((x / theta).log1p_(), alpha=0.5)


def poisson(x: Tensor, log_mu: Tensor, mu: Tensor, best: Tensor) -> Above:
    """log Poisson(x | mu) and its slope, at x > 0; mu = exp(log_mu) may have underflowed to 0."""
    excess = x - mu
    return Above(torch.addcmul(best, x, _h(excess / x, _log_ratio(x, log_mu, mu)), value=-1), excess)


def negative_binomial(
    x: Tensor, log_mu: Tensor, mu: Tensor, theta: Tensor, best: Tensor, d_j: Tensor | None = None
) -> Above:
    """log NB(x | mu, theta) at x > 0 and for finite theta > 0, and its slopes if d_j = J'(theta) is given."""
    total, fitted = theta + x, theta + mu
    shrink, excess = theta / fitted, x - mu
    log_shift = (fitted / total).log_()
    theta_h = _h(-excess / fitted, log_shift).mul_(theta)
    h = _h(excess / x * shrink, _log_ratio(x, log_mu, mu).add_(log_shift))
    log_p = torch.addcmul(best, x, h, value=-1).sub_(theta_h)
    excess.mul_(shrink)
    if d_j is None:
        return Above(log_p, excess)
    slope = binet_slope(total).sub_(d_j).mul_(theta).sub_(theta_h).add_(x / total, alpha=0.5)
    return Above(log_p, excess, slope)


def _log_ratio(x: Tensor, log_mu: Tensor, mu: Tensor) -> Tensor:
    """log(x / mu), also where mu has underflowed to 0."""
    return (x / mu.clamp(min=MU_MIN)).log_().add_((LOG_MU_MIN - log_mu).clamp_(min=0))


def _h(u: Tensor, minus_log: Tensor) -> Tensor:
    """h(u) = -log(1 - u) - u for u < 1, given ``minus_log`` = -log(1 - u).

    Near u = 0 the two terms are almost equal, so h is computed as a series: v = u / (2 - u), -log(1 - u) = 2 atanh(v),
    h(u) = u v + 2 (v^3/3 + v^5/5 + ...).
    """
    v = u / (2 - u)
    s = v * v
    near = horner(ATANH_TAIL[u.dtype], s).mul_(s).mul_(2).add_(u).mul_(v)
    close = v.abs_().lt_(0.3)
    return near.mul_(close).addcmul_(minus_log - u, 1 - close)
