r"""Every gene's term of a log-probability, and its slopes.

Nine counts in ten are zero, and there the formulas are short:

    log Poisson(0 | mu)   = -mu                            d/d log mu    = -mu
    log NB(0 | mu, theta) = -theta log(1 + mu/theta)       d/d log mu    = -mu / (1 + mu/theta)
                                                           d/d log theta = log NB(0) - d/d log mu

so they are evaluated for all genes, and what ``deviance`` says of the other counts is then put in its place. An extra
zero, of probability pi = sigmoid(gate), mixes with the zeros of the count: with w = P(not extra | x), which is 1 above zero,

    log P(0) = log(pi + (1 - pi) p(0))      slopes of log p times w, and d/d gate = (1 - pi) - w
    log P(x) = log(1 - pi) + log p(x)
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyroscvi.distributions import deviance
from pyroscvi.distributions.counts import NonZero

__all__ = ["Means", "Slopes", "terms"]


class Means(NamedTuple):
    """mu, which may underflow, and log mu = logits + offset, which does not."""

    mu: Tensor  # [..., g]
    logits: Tensor  # [..., g]
    offset: Tensor | None = None  # [..., 1]

    def log_mu(self, counts: NonZero) -> Tensor:
        logits = counts.take(self.logits)
        return logits if self.offset is None else logits.add_(counts.take_cell(self.offset))


class Slopes(NamedTuple):
    """d log p / d (log mu, log theta, gate), for every gene [..., g]; None for what is not there."""

    log_mu: Tensor
    log_theta: Tensor | None
    gate: Tensor | None


def terms(counts: NonZero, means: Means, theta: Tensor | None, gate: Tensor | None, slopes: Slopes | None) -> Tensor:
    """log p of every gene [..., g], and its slopes, written into ``slopes``, which is None where nobody asked.

    theta  inverse dispersion, finite and above zero; None is the Poisson  [..., g]
    gate   logits of an extra zero; None is no zero inflation              [..., g]
    """
    x, mu = counts.x, counts.take(means.mu)
    if theta is None:
        log_p = -means.mu
        above, *d_above = deviance.poisson(x, means.log_mu(counts), mu)
        if slopes:
            slopes.log_mu.copy_(log_p)
    else:
        r = means.mu / theta
        log_p = torch.log1p(r).mul_(theta).neg_()
        above, *d_above = deviance.negative_binomial(
            x, means.log_mu(counts), mu, counts.take(theta), slopes=slopes is not None
        )
        if slopes:
            torch.div(means.mu, torch.rsub(r, -1), out=slopes.log_mu)
            torch.sub(log_p, slopes.log_mu, out=slopes.log_theta)
    if gate is not None:
        log_p, above = _with_extra_zeros(counts, log_p, above, gate, slopes)
    counts.put(log_p, above)
    if slopes:
        for slope, value in zip(slopes, d_above, strict=False):
            counts.put(slope, value)
    return log_p


def _with_extra_zeros(
    counts: NonZero, log_p: Tensor, above: Tensor, gate: Tensor, slopes: Slopes | None
) -> tuple[Tensor, Tensor]:
    """From log p(0) [..., g] and log p(x > 0) [k] to the same with extra zeros; the slopes at zero are weighted."""
    tail = logsigmoid(gate.abs())
    extra, kept = tail + gate.clamp(max=0), tail.sub_(gate.clamp(min=0))  # log pi, log(1 - pi)
    above = above + counts.take(kept)
    if slopes:
        weight = torch.sub(log_p, gate, out=slopes.gate).sigmoid_()
        slopes.log_mu.mul_(weight)
        if slopes.log_theta is not None:
            slopes.log_theta.mul_(weight)
        counts.put(weight, torch.ones_like(above))
        torch.sub(torch.sigmoid(-gate), weight, out=weight)
    return torch.logaddexp(extra, kept.add_(log_p)), above
