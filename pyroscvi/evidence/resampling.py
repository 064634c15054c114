"""Draws of the posterior itself: draws of a proposal, resampled by their importance weights.

    u_1 .. u_K ~ q(u | x),     w_s = p(x, u_s) / q(u_s),     u* = u_s with probability w_s / (w_1 + ... + w_K)

A guide reads all cells with one network and belongs to one family, so its posterior of a cell is often too narrow and
sometimes misplaced. Resampled draws are as good as the weights are, whatever the guide. They are not quite independent,
because they come from one pool: the variance of an average of L of them is 1/L + 1/ESS, where that of independent draws
is 1/L. So a pool needs several times as many effective draws as are resampled, and a cell whose pool has fewer gets a
better proposal.

References
    Rubin, D. B. (1988) Using the SIR algorithm to simulate posterior distributions. Bayesian Statistics 3, 395-402.
    Smith, A. F. M. & Gelfand, A. E. (1992) Bayesian statistics without tears: a sampling-resampling perspective. Am
    Stat 46, 84-88. doi:10.2307/2684170
"""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from pyroscvi.evidence.adaptive import Adaptive
from pyroscvi.evidence.estimator import Target, proposed
from pyroscvi.evidence.importance import MAX_K_HAT, drawn, k_hat
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.memory import WEIGHTS
from pyroscvi.evidence.proposals import Proposal
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.refined import Refined
from pyroscvi.evidence.streams import Streams

CANDIDATES = 4000
MIN_EFFECTIVE = 400  # draws of a pool: the variance of a hundred resampled draws is then a quarter larger, at most
POOLS, RESAMPLE = 64, 128  # purposes of streams

# From fast to careful, as on the ladder: moved to where weights are large, with more draws, and started at every mode.
PROPOSALS: tuple[Proposal, ...] = (Adaptive(), Adaptive(draws=512), Adaptive(draws=512, start=Refined()))


class Pool(NamedTuple):
    """Draws of a proposal for every cell, and their log weights.

    u      unconstrained latents, end to end   [K, n, d]
    log_w  log p(x, u) - log q(u)              [K, n]
    """

    u: Tensor
    log_w: Tensor

    @property
    def weights(self) -> Tensor:
        """Weights of every cell, which add up to one [K, n]."""
        return self.log_w.softmax(0)

    @property
    def effective_sample_size(self) -> Tensor:
        """How many independent draws of the posterior are as good as the pool [n]."""
        return 1 / self.weights.square().sum(0)

    @property
    def sufficient(self) -> Tensor:
        """The cells whose pools are large enough to resample a hundred draws [n]."""
        size = min(MIN_EFFECTIVE, len(self.log_w) / 4)
        return (self.effective_sample_size >= size) & ~(k_hat(self.log_w) >= MAX_K_HAT)

    def mean(self, values: Tensor) -> Tensor:
        """Posterior mean [n, ...] of a value of every draw [K, n, ...]."""
        weights = self.weights.reshape(*self.log_w.shape, *(1,) * (values.dim() - 2))
        return (weights * values).sum(0)

    def covariance(self) -> Tensor:
        """Posterior covariance of u [n, d, d]."""
        deviation = self.u - self.mean(self.u)
        return torch.einsum("kn,kni,knj->nij", self.weights, deviation, deviation)

    def resampled(self, streams: Streams, s: int) -> Tensor:
        """s draws of the posterior of every cell, independent given the pool [s, n, d]."""
        cumulative = self.weights.cumsum(0).T.contiguous()
        uniform = streams.uniform(s).to(cumulative).T.contiguous() * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, uniform).clamp(max=len(self.u) - 1).T
        return torch.take_along_dim(self.u, chosen.unsqueeze(-1), 0)


def pools(
    reader: Reader, candidates: int = CANDIDATES, seed: int = 0, *, proposals: Sequence[Proposal] = PROPOSALS
) -> Iterator[tuple[Target[Joint], Pool]]:
    """Minibatches in the order of the cells, each with its pool; pools do not depend on the minibatches.

    Raises ValueError where cells share a latent, because its posterior is not that of one cell.
    """
    numbers = WEIGHTS + sum(site.size for site in reader.guide.sites.values())
    particles = ceil(candidates * numbers / WEIGHTS)  # whose weights alone would take as much memory as the pool
    for target in reader.targets(seed, particles):
        yield target, pool(target, candidates, proposals)


def pool(target: Target, candidates: int = CANDIDATES, proposals: Sequence[Proposal] = PROPOSALS) -> Pool:
    """Weighted draws of every cell, from the first proposal whose pool is sufficient, or from the last."""
    rest = torch.arange(len(target.q.loc), device=target.q.loc.device)
    result = _weighted(target.take(rest, POOLS), proposals[0], candidates)
    for turn, proposal in enumerate(proposals[1:], start=1):
        rest = (~result.sufficient).nonzero().squeeze(-1)
        if not len(rest):
            break
        better = _weighted(target.take(rest, POOLS + turn), proposal, candidates)
        result = Pool(result.u.index_copy(1, rest, better.u), result.log_w.index_copy(1, rest, better.log_w))
    return result


def _weighted(target: Target, proposal: Proposal, candidates: int) -> Pool:
    draws = proposed(proposal, target)
    u, log_w = [], []
    with torch.no_grad():
        for piece in drawn(draws, target.streams, candidates, target.chunk):
            u.append(piece)
            log_w.append((target.joint(piece) - draws.log_prob(piece)).nan_to_num(-torch.inf, posinf=-torch.inf))
    return Pool(torch.cat(u), torch.cat(log_w))
