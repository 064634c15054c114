r"""The term of every gene in a log-probability, and its slopes.

Nine counts in ten are zero, and at zero the formulas are short:

    log Poisson(0 | mu)   = -mu                            d/d log mu    = -mu
    log NB(0 | mu, theta) = -theta log(1 + mu/theta)       d/d log mu    = -mu / (1 + mu/theta)
                                                           d/d log theta = log NB(0) - d/d log mu

They are evaluated for all genes. Then, at counts above zero, the terms from ``deviance`` overwrite them. An extra zero
has probability pi = sigmoid(gate). With w = P(not extra | x), which is 1 for counts above zero,

    log P(0) = log(pi + (1 - pi) p(0))      slopes of log p times w, and d/d gate = (1 - pi) - w
    log P(x) = log(1 - pi) + log p(x)
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyroscvi.distributions import deviance
from pyroscvi.distributions.counts import Counts
from pyroscvi.distributions.deviance import Above
from pyroscvi.distributions.parameters import MU_MAX, Parameters
from pyroscvi.distributions.stirling import binet, binet_slope


class Means(NamedTuple):
    """mu, which may underflow to 0, and the two terms of log mu = logits + offset, which do not underflow."""

    mu: Tensor  # [..., g]
    logits: Tensor  # [..., g]
    offset: Tensor | None = None  # [..., 1]
    rho: Tensor | None = None  # softmax(logits), where there is a size  [..., g]

    @classmethod
    def of(cls, logits: Tensor, log_size: Tensor | None) -> "Means":
        if log_size is None:
            return cls(logits.exp().clamp_(max=MU_MAX), logits)
        rho = torch.softmax(logits, -1)
        log_sum_exp = logits.amax(-1, keepdim=True) - rho.amax(-1, keepdim=True).log_()
        return cls(rho * log_size.exp().clamp_(max=MU_MAX), logits, log_size - log_sum_exp, rho)

    def log_mu(self, counts: Counts) -> Tensor:
        logits = counts.take(self.logits)
        return logits if self.offset is None else logits + counts.take_cell(self.offset)


def terms(counts: Counts, means: Means, theta: Tensor | None, gate: Tensor | None, slopes: Parameters | None) -> Tensor:
    """log p of every gene [..., g]; writes its slopes in log mu, log theta and gate into ``slopes``, if given."""
    if theta is None:
        log_p, above = _poisson(counts, means, slopes)
    else:
        log_p, above = _negative_binomial(counts, means, theta, slopes)
    if gate is not None:
        log_p, above = _with_extra_zeros(counts, log_p, above, gate, slopes)
    counts.put(log_p, above.log_p)
    if slopes is not None:
        counts.put(slopes.mean, above.d_log_mu)
    if slopes is not None and slopes.dispersion is not None and above.d_log_theta is not None:
        counts.put(slopes.dispersion, above.d_log_theta)
    return log_p


# Each of these returns log p(0) for all genes [..., g], and log p and its slopes at the counts above zero [k]. Each
# writes the slopes at zero into ``slopes``.


def _poisson(counts: Counts, means: Means, slopes: Parameters | None) -> tuple[Tensor, Above]:
    log_p = -means.mu
    if slopes is not None:
        slopes.mean.copy_(log_p)
    best = counts.cached(None, lambda: deviance.best_poisson(counts.x))
    return log_p, deviance.poisson(counts.x, means.log_mu(counts), counts.take(means.mu), best)


def _negative_binomial(counts: Counts, means: Means, theta: Tensor, slopes: Parameters | None) -> tuple[Tensor, Above]:
    r = means.mu / theta
    log_p = torch.log1p(r).mul_(theta).neg_()
    if slopes is not None:
        torch.div(means.mu, torch.rsub(r, -1), out=slopes.mean)
        torch.sub(log_p, slopes.mean, out=slopes.dispersion)
    mu, theta_x = counts.take(means.mu), _of_theta(counts, theta)
    best = counts.cached(
        theta, lambda: deviance.best_negative_binomial(counts.x, theta_x, _of_theta(counts, theta, binet))
    )
    d_j = None if slopes is None else _of_theta(counts, theta, binet_slope)
    return log_p, deviance.negative_binomial(counts.x, means.log_mu(counts), mu, theta_x, best, d_j)


def _of_theta(counts: Counts, theta: Tensor, f: Callable[[Tensor], Tensor] = lambda theta: theta) -> Tensor:
    """f(theta) at the nonzero counts [k]; computed once for each gene if all cells have the same theta [..., g]."""
    shared = all(n == 1 or step == 0 for n, step in zip(theta.shape[:-1], theta.stride()[:-1], strict=True))
    if shared and counts.x.numel() >= theta.shape[-1]:
        return counts.take_gene(f(theta[(0,) * (theta.dim() - 1)]))
    return f(counts.take(theta))


def _with_extra_zeros(
    counts: Counts, log_p: Tensor, above: Above, gate: Tensor, slopes: Parameters | None
) -> tuple[Tensor, Above]:
    tail = logsigmoid(gate.abs())
    extra, kept = tail + gate.clamp(max=0), tail - gate.clamp(min=0)  # log pi and log(1 - pi), both accurate
    if slopes is not None:
        weight = torch.sub(log_p, gate, out=slopes.gate).sigmoid_()  # P(not extra | x)
        slopes.mean.mul_(weight)
        if slopes.dispersion is not None:
            slopes.dispersion.mul_(weight)
        counts.put(weight, torch.ones_like(above.log_p))
        torch.sub(torch.sigmoid(-gate), weight, out=weight)
    return torch.logaddexp(extra, kept + log_p), above._replace(log_p=above.log_p + counts.take(kept))
