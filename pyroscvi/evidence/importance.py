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
from math import ceil, log, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyroscvi.evidence.proposals import Draws, LogJoint
from pyroscvi.evidence.streams import Streams

MAX_K_HAT = 0.7  # above it neither an estimate nor its error means much
NO_K_HAT = 20  # draws: as many or fewer have no k-hat


class Estimate(NamedTuple):
    """The evidence of every cell and the diagnostics of its importance weights, each [n]: ``evidences``."""

    log_evidence: Tensor
    monte_carlo_se: Tensor
    effective_sample_size: Tensor
    k_hat: Tensor

    @classmethod
    def exact(cls, log_p: Tensor) -> "Estimate":
        """A known evidence [n]: as good as any number of draws."""
        infinite = torch.full_like(log_p, torch.inf)
        return cls(log_p, torch.zeros_like(log_p), infinite, -infinite)


class Weights:
    """log p(x_n, u_s) - log q(u_s) for draws u_s of every cell, to which more can be added.

    log_w   the log weights, -inf where a cell has fewer draws than others  [s, n]
    counts  draws of every cell  [n]
    chunk   draws of every cell that are computed at once; None: all
    """

    def __init__(self, log_joint: LogJoint, draws: Draws, streams: Streams, chunk: int | None = None):
        n = len(streams.rows)
        self.of: tuple[Any, ...] = (log_joint, draws, streams)
        self.chunk = chunk
        self.counts, self.log_w = torch.zeros(n, dtype=torch.long), torch.zeros(0, n, dtype=torch.float64)

    @torch.no_grad()
    def extend(self, counts: Tensor) -> None:
        """Draw until every cell has so many draws [n]; a cell that has them leaves the batch."""
        if (counts < 1).any():
            raise ValueError(f"particles must be at least 1, not {int(counts.min())}")
        n, rows = len(counts), torch.arange(len(counts))
        some: tuple[Any, ...] = self.of
        more = int(counts.max()) - len(self.log_w)
        self.log_w = torch.cat([self.log_w, self.log_w.new_full((max(more, 0), n), -torch.inf)])
        while len(left := (self.counts < counts).nonzero().squeeze(-1)):
            if len(left) < len(rows):
                some, rows = tuple(each.take(left) for each in self.of), left
            log_joint, draws, streams = some
            s = int((counts - self.counts)[rows].min())
            u = draws.sample(streams, min(s, self.chunk * n // len(rows)) if self.chunk else s)
            log_w = (log_joint(u) - draws.log_prob(u)).to(self.log_w)
            if log_w.isnan().any():
                row = streams.rows[int(log_w.isnan().any(0).nonzero()[0])]
                raise ValueError(
                    f"log p(x, z) is not a number for cell {row}: its counts or the parameters are not finite"
                )
            self.log_w[self.counts[rows] + torch.arange(len(u))[:, None], rows] = log_w
            self.counts[rows] += len(u)

    def estimate(self) -> "Estimate":
        """Evidence and diagnostics of every cell."""
        result = Estimate(*torch.zeros(4, len(self.counts), dtype=torch.float64))
        for count in self.counts.unique():
            rows = self.counts == count
            for all_cells, some in zip(result, estimate(self.log_w[:count, rows]), strict=True):
                all_cells[rows] = some
        return result


def log_weights(
    log_joint: LogJoint, draws: Draws, streams: Streams, particles: int, chunk: int | None = None
) -> Tensor:
    """Log weights of so many draws of every cell [particles, n], ``chunk`` of them at a time."""
    weights = Weights(log_joint, draws, streams, chunk)
    weights.extend(torch.full_like(weights.counts, particles))
    return weights.log_w


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


def k_hat(log_weight: Tensor) -> Tensor:
    """The shape of a generalised Pareto fitted to the largest weights of every cell [n], from log weights [s, n].

    Below 0.5 the weights have a variance; above 0.7 neither an estimate nor its standard error means much [Vehtari et
    al., 2024, JMLR 25, 1-58]. It is NaN for 20 draws or fewer, and minus infinity where weights do not vary. It does
    not detect a mode that no draw has visited.
    """
    s = len(log_weight)
    tail = ceil(min(0.2 * s, 3 * sqrt(s)))
    if tail < 5:
        return log_weight.new_full(log_weight.shape[1:], torch.nan)
    top = log_weight.topk(tail + 1, 0).values.flip(0)
    weight = (top - top[-1]).exp()
    excess = (weight[1:] - weight[0]).clamp(min=1e-300)  # beside one dominant weight the others may underflow
    varies = top[-1] - top[0] > 1e-9
    return torch.where(
        varies, _shape(torch.where(varies, excess, torch.linspace(1, 2, tail).to(excess)[:, None])), -torch.inf
    )


def _shape(x: Tensor) -> Tensor:
    """The shape of a generalised Pareto [n], for excesses x [m, n] in rising order.

    It is an average over a grid of b = -k / sigma, weighted by profile likelihood [Zhang & Stephens, 2009,
    Technometrics 51, 316-325], and shrunk towards 1/2 as by ten more excesses.
    """
    m = len(x)
    grid = 30 + int(sqrt(m))
    i = torch.arange(1, grid + 1, dtype=x.dtype, device=x.device)[:, None]
    quartile = x[int(m / 4 + 0.5) - 1]
    b = 1 / x[-1] + (1 - (grid / (i - 0.5)).sqrt()) / (3 * quartile)  # [grid, n]
    k = torch.log1p(-b[:, None] * x).mean(1)
    profile = m * ((-b / k).log() - k - 1)
    mean_b = (profile.softmax(0) * b).sum(0)
    return (m * torch.log1p(-mean_b * x).mean(0) + 5) / (m + 10)
