r"""Every gene's term of a log-probability, and its slopes: zeros densely, the other counts where they are.

Nine counts in ten are zero, and there the formulas are short:

    log NB(0 | mu, theta) = -theta log(1 + mu/theta)       d/d log mu    = -mu / (1 + mu/theta)
                                                           d/d log theta = log NB(0) - d/d log mu
    log Poisson(0 | mu)   = -mu                            d/d log mu    = -mu

so they are written for the whole block, and what ``deviance`` says is then put where x > 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyroscvi.distributions import deviance

__all__ = ["Means", "Terms", "Where", "terms"]


class Where(NamedTuple):
    """The counts of a block that are not zero."""

    at: Tensor  # their flat positions in the block  [k]
    x: Tensor  # their values                         [k]

    @classmethod
    def of(cls, x: Tensor) -> "Where":
        flat = x.reshape(-1)
        at = flat.nonzero().squeeze(-1)
        return cls(at, flat[at])

    def __call__(self, t: Tensor) -> Tensor:  # type: ignore[override]
        """The values of t [..., g] at these positions [k]."""
        return t.reshape(-1).index_select(0, self.at)

    def put(self, t: Tensor, values: Tensor) -> None:
        """Write the values [k] into t [..., g], which must be contiguous."""
        t.view(-1).index_copy_(0, self.at, values)


class Means(NamedTuple):
    """mu of a block, and log mu = logits + offset where it is asked for."""

    mu: Tensor  # [..., g]
    logits: Tensor  # [..., g]
    offset: Tensor | None  # [..., 1]

    def log_mu(self, where: Where) -> Tensor:
        log_mu = where(self.logits)
        if self.offset is None:
            return log_mu
        row = where.at // self.logits.shape[-1]
        return log_mu + self.offset.reshape(-1)[row]


class Terms(NamedTuple):
    """A block's log-probabilities and their slopes, all [..., g]; slopes are None where nobody asked."""

    log_p: Tensor
    log_mu: Tensor | None
    log_theta: Tensor | None
    gate: Tensor | None


def terms(where: Where, means: Means, theta: Tensor | None, gate: Tensor | None, slopes: bool) -> Terms:
    """The terms of a block of counts.

    theta  finite and above zero, or None for the Poisson  [..., g]
    gate   logits of an extra zero, or None                [..., g]
    """
    mu, x = means.mu, where.x
    d_log_mu = d_log_theta = d_gate = None
    if theta is None:
        log_p = -mu
        above = deviance.poisson(x, means.log_mu(where), where(mu))
        if slopes:
            d_log_mu = log_p.clone()
    else:
        r = mu / theta
        log_p = torch.log1p(r).mul_(-theta)
        above = deviance.negative_binomial(x, means.log_mu(where), where(mu), where(theta))
        if slopes:
            d_log_mu = mu / torch.rsub(r, -1)
            d_log_theta = log_p - d_log_mu
    log_p_above = above.log_p

    if gate is not None:
        kept = logsigmoid(-gate)
        log_p = log_p.add_(kept)  # log P(not an extra zero, 0)
        mixed = torch.logaddexp(log_p, logsigmoid(gate))
        log_p_above = log_p_above + where(kept)
        if slopes:
            weight = log_p.sub_(mixed).exp_()  # P(not an extra zero | 0)
            where.put(weight, torch.ones_like(x))
            d_gate = kept.exp_().sub_(weight)
            d_log_mu.mul_(weight)
            if d_log_theta is not None:
                d_log_theta.mul_(weight)
        log_p = mixed

    where.put(log_p, log_p_above)
    if d_log_mu is not None:
        where.put(d_log_mu, above.log_mu)
    if d_log_theta is not None:
        where.put(d_log_theta, above.log_theta)
    return Terms(log_p, d_log_mu, d_log_theta, d_gate)
