"""Draws of the posterior itself: those of a proposal, weighed and drawn again by their weights.

    u_1 .. u_K ~ q(u | x),     w_s = p(x, u_s) / q(u_s),     u* = u_s with probability w_s / (w_1 + ... + w_K)

A guide reads all cells with one network, and is of one family; what it says of a cell is often too narrow, and at times
beside the mark. These draws are as good as the weights are, whatever the guide was. Draws that are drawn again are not
quite independent, for they come from one pool: the variance of their average is 1/L + 1/ESS where that of L
independent draws is 1/L. A pool is therefore to have several times the effective draws that are asked of it, and a cell
whose pool has not is given a better proposal.

References
    Rubin, D. B. (1988) Using the SIR algorithm to simulate posterior distributions. Bayesian Statistics 3, 395-402.
    Smith, A. F. M. & Gelfand, A. E. (1992) Bayesian statistics without tears: a sampling-resampling perspective. Am
    Stat 46, 84-88. doi:10.2307/2684170
"""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyroscvi.evidence.adaptive import Adaptive
from pyroscvi.evidence.estimator import Target
from pyroscvi.evidence.importance import drawn
from pyroscvi.evidence.memory import WEIGHTS
from pyroscvi.evidence.pareto import HEAVY, k_hat
from pyroscvi.evidence.proposals import GuideDraws, Proposal, StudentT, components
from pyroscvi.evidence.reading import MEMORY, Read, pair, reading
from pyroscvi.evidence.refined import Refined
from pyroscvi.evidence.streams import Streams

__all__ = ["CANDIDATES", "ENOUGH", "PROPOSALS", "Pool", "pool", "pools"]

CANDIDATES = 4000
ENOUGH = 400  # effective draws of a pool, and so a variance that is a quarter wider, at most, for a hundred draws of it
POOLS, AGAIN = 64, 128  # purposes of streams

# From quick to careful: from where the guide points, from where weights say the mass is, and from every mode.
PROPOSALS: tuple[Proposal, ...] = (StudentT(), Adaptive(), Adaptive(start=Refined()))


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
        """How many draws of the posterior the pool is worth [n]."""
        return 1 / self.weights.square().sum(0)

    @property
    def settled(self) -> Tensor:
        """Whose pools are large enough to draw a hundred times from [n]."""
        return (self.effective_sample_size >= min(ENOUGH, len(self.log_w) / 4)) & ~(k_hat(self.log_w) >= HEAVY)

    def mean(self, values: Tensor) -> Tensor:
        """Posterior mean [n, ...] of something known of every draw [K, n, ...]."""
        weights = self.weights.reshape(*self.log_w.shape, *(1,) * (values.dim() - 2))
        return (weights * values).sum(0)

    def covariance(self) -> Tensor:
        """Posterior covariance of u [n, d, d]."""
        aside = self.u - self.mean(self.u)
        return torch.einsum("kn,kni,knj->nij", self.weights, aside, aside)

    def resampled(self, streams: Streams, s: int) -> Tensor:
        """s draws of the posterior of every cell, independent given the pool [s, n, d]."""
        heaped = self.weights.cumsum(0).T.contiguous()
        at = streams.uniform(s).to(heaped).T.contiguous() * heaped[:, -1:]
        chosen = torch.searchsorted(heaped, at).clamp(max=len(self.u) - 1).T
        return torch.take_along_dim(self.u, chosen.unsqueeze(-1), 0)


def pools(
    fit: Any,
    cells: Any,
    candidates: int = CANDIDATES,
    seed: int = 0,
    *,
    proposals: Sequence[Proposal] = PROPOSALS,
    memory: int | str = MEMORY,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> Iterator[tuple[Read, Pool]]:
    """Minibatches in the order of the cells, each with its pool; pools do not depend on the minibatches.

    Raises ValueError where cells share a latent: its posterior is not that of one cell.
    """
    _, guide = pair(fit)
    numbers = WEIGHTS + sum(site.size for site in guide.sites.values())
    kept = ceil(candidates * numbers / WEIGHTS)
    for read in reading(fit, cells, seed, GuideDraws(), batch_size, memory=memory, particles=kept, dtype=dtype):
        yield read, pool(Target.of(read), candidates, proposals)


def pool(target: Target, candidates: int = CANDIDATES, proposals: Sequence[Proposal] = PROPOSALS) -> Pool:
    """Weighed draws of every cell: of the first proposal that gives it a pool to be trusted, or of the last.

    Where discrete latents are summed, the first is passed over if there are others: weights do not tell of a mode that
    no draw has seen.
    """
    careful = proposals[1:] if len(components(target.log_joint)) > 1 and len(proposals) > 1 else proposals
    rest = torch.arange(len(target.q.loc), device=target.q.loc.device)
    found = _drawn(target.take(rest, POOLS), careful[0], candidates)
    for turn, proposal in enumerate(careful[1:], start=1):
        rest = (~found.settled).nonzero().squeeze(-1)
        if not len(rest):
            break
        better = _drawn(target.take(rest, POOLS + turn), proposal, candidates)
        found = Pool(found.u.index_copy(1, rest, better.u), found.log_w.index_copy(1, rest, better.log_w))
    return found


def _drawn(target: Target, proposal: Proposal, candidates: int) -> Pool:
    draws = proposal(target.q, target.log_joint)
    u, log_w = [], []
    with torch.no_grad():
        for piece in drawn(draws, target.streams, candidates, target.chunk):
            u.append(piece)
            log_w.append((target.log_joint(piece) - draws.log_prob(piece)).nan_to_num(-torch.inf, posinf=-torch.inf))
    return Pool(torch.cat(u), torch.cat(log_w))
