"""Importance sampling: an evidence from the log weights of draws.

    p(x_n) ~ 1/S sum_s  p(x_n, u_s) / q(u_s),      u_s ~ q(u)

The logarithm of an average is too low in expectation: by half its squared Monte Carlo error, and by more than the
sample shows where the proposal misses part of the posterior.

Any log-density can be integrated in this way, also one written by hand:

    draws = Elliptical(loc, scale_tril, df=5.0)
    estimate(log_weights(log_joint, draws, Streams(seed, rows), particles=1000)).log_evidence

References
    Burda, Y. et al. (2016) Importance weighted autoencoders. ICLR. arXiv:1509.00519
    Owen, A. B. (2013) Monte Carlo theory, methods and examples. Chapter 9.
"""

from collections.abc import Iterator
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from pyroscvi.evidence.pareto import k_hat
from pyroscvi.evidence.proposals import Draws, LogJoint
from pyroscvi.evidence.streams import Streams

__all__ = ["Estimate", "drawn", "estimate", "log_weights"]


class Estimate(NamedTuple):
    """The evidence of every cell and the diagnostics of its importance weights, each [n].

    log_evidence           log p(x_n), in nats
    monte_carlo_se         standard error over draws
    effective_sample_size  draws from the posterior that would have been as good
    k_hat                  how heavy the tail of the weights is
    """

    log_evidence: Tensor
    monte_carlo_se: Tensor
    effective_sample_size: Tensor
    k_hat: Tensor

    @classmethod
    def exact(cls, log_p: Tensor) -> "Estimate":
        """A known evidence [n]: as good as any number of draws."""
        infinite = torch.full_like(log_p, torch.inf)
        return cls(log_p, torch.zeros_like(log_p), infinite, -infinite)


@torch.no_grad()
def log_weights(
    log_joint: LogJoint, draws: Draws, streams: Streams, particles: int, chunk: int | None = None
) -> Tensor:
    """log p(x_n, u_s) - log q(u_s) for draws u_s of every cell [particles, n], ``chunk`` of them at a time."""
    log_w = torch.cat([log_joint(u) - draws.log_prob(u) for u in drawn(draws, streams, particles, chunk)])
    if log_w.isnan().any():
        row = streams.rows[int(log_w.isnan().any(0).nonzero()[0])]
        raise ValueError(f"log p(x, z) is not a number for cell {row}: its counts or the parameters are not finite")
    return log_w


def drawn(draws: Draws, streams: Streams, particles: int, chunk: int | None = None) -> Iterator[Tensor]:
    """Draws u [<= chunk, n, d] of every cell, in pieces."""
    if particles < 1:
        raise ValueError(f"particles must be at least 1, not {particles}")
    step = chunk or particles
    for start in range(0, particles, step):
        yield draws.sample(streams, min(step, particles - start))


def estimate(log_w: Tensor) -> Estimate:
    """Evidence and diagnostics from log weights [s, n]."""
    s = len(log_w)
    value = log_w.logsumexp(0) - log(s)
    square = (2 * (log_w - value)).exp().mean(0)  # of weights scaled to mean one
    error = ((square - 1).clamp(min=0) / (s - 1)).sqrt() if s > 1 else torch.full_like(value, torch.nan)
    return Estimate(value, error, s / square, k_hat(log_w))
