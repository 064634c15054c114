"""Proposals: where importance sampling looks for the latents of a cell.

    >>> StudentT()
    StudentT()
    >>> StudentT(df=3)
    StudentT(df=3)

An estimate is as good as its proposal is like the posterior, above all in the tails: where the proposal is lighter, the
rare draw that matters is missing, and nothing in the sample says so.
"""

from collections.abc import Callable
from math import inf, lgamma, log, pi
from typing import Any, NamedTuple, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.streams import Streams
from pyroscvi.part import Part

__all__ = ["Draws", "Elliptical", "GuideDraws", "Mixed", "Proposal", "StudentT", "together"]

LogJoint = Callable[[Tensor], Tensor]


class Draws(Protocol):
    """What a proposal hands back: it samples u [s, n, d] and knows their log-density [s, n]."""

    def sample(self, streams: Streams, s: int) -> Tensor: ...

    def log_prob(self, u: Tensor) -> Tensor: ...


class Elliptical(NamedTuple):
    """u_n = loc_n + L_n e, with e normal, or Student's t with ``df`` degrees of freedom.

    loc         [n, d]
    scale_tril  L, lower triangular  [n, d, d]
    """

    loc: Tensor
    scale_tril: Tensor
    df: float = inf

    def sample(self, streams: Streams, s: int) -> Tensor:
        return self.around(self.noise(streams, s))

    def noise(self, streams: Streams, s: int) -> Tensor:
        """e [s, n, d]."""
        e = streams.normal(s, self.loc.shape[-1]).to(self.loc)
        if self.df == inf:
            return e
        return e * (self.df / streams.chi2(self.df, s).to(self.loc)).sqrt().unsqueeze(-1)

    def around(self, e: Tensor) -> Tensor:
        """loc_n + L_n e [s, n, d]."""
        return self.loc + torch.einsum("nij,snj->sni", self.scale_tril, e)

    def log_prob(self, u: Tensor) -> Tensor:
        d = self.loc.shape[-1]
        e = torch.linalg.solve_triangular(self.scale_tril, (u - self.loc).permute(1, 2, 0), upper=False)  # [n, d, s]
        square = (e * e).sum(1).T
        log_volume = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        if self.df == inf:
            return -0.5 * (square + d * log(2 * pi)) - log_volume
        half = (self.df + d) / 2
        constant = lgamma(half) - lgamma(self.df / 2) - 0.5 * d * log(pi * self.df)
        return constant - log_volume - half * (square / self.df).log1p()


class Mixed(NamedTuple):
    """Each draw from one of several parts, which have their degrees of freedom in common.

    weights  probability of each part for every cell  [part, n]
    """

    parts: tuple[Elliptical, ...]
    weights: Tensor

    def sample(self, streams: Streams, s: int) -> Tensor:
        e = self.parts[0].noise(streams, s)  # the same for all parts, of which one is chosen
        chosen = streams.uniform(s).to(e) > self.weights.cumsum(0)[:-1].unsqueeze(1)  # [part - 1, s, n]
        among = torch.stack([part.around(e) for part in self.parts])
        return torch.take_along_dim(among, chosen.sum(0)[None, :, :, None], 0)[0]

    def log_prob(self, u: Tensor) -> Tensor:
        return torch.stack([part.log_prob(u) for part in self.parts]).add(self.weights.log().unsqueeze(1)).logsumexp(0)


class Proposal(Part):
    """A slot from what the guide says of the latents, and the log-density they have, to draws."""

    def forward(self, q: Elliptical, log_joint: LogJoint) -> Draws:
        raise NotImplementedError


class GuideDraws(Proposal):
    """u ~ q(u | x), as the guide says. Exact with any number of particles where q is the posterior."""

    def forward(self, q, log_joint):
        return q


class StudentT(Proposal):
    """The guide's Gaussian, widened and with Student-t tails: weights stay bounded where the guide is too narrow."""

    df: float = 5.0
    widen: float = 1.15

    def forward(self, q, log_joint):
        return Elliptical(q.loc, self.widen * q.scale_tril, self.df)


def together(posteriors: dict[str, Any], cells: Cells) -> Elliptical:
    """One Gaussian for all latents of a cell, laid end to end, from a guide's posterior of every site."""
    moments = [_moments(name, q) for name, q in posteriors.items()]
    size = sum(loc.shape[-1] for loc, _ in moments)
    loc = torch.zeros(len(cells), size, dtype=cells.dtype, device=cells.device)
    scale_tril = torch.zeros(len(cells), size, size, dtype=cells.dtype, device=cells.device)
    start = 0
    for mean, factor in moments:
        block = slice(start, start + mean.shape[-1])
        loc[:, block] = mean
        scale_tril[:, block, block] = factor
        start = block.stop
    return Elliptical(loc, scale_tril)


def _moments(name: str, q: Any) -> tuple[Tensor, Tensor]:
    if isinstance(q, dist.Independent) and isinstance(q.base_dist, dist.Normal):
        return q.base_dist.loc, q.base_dist.scale.diag_embed()
    if isinstance(q, dist.MultivariateNormal | dist.LowRankMultivariateNormal):
        return q.loc, q.scale_tril
    raise TypeError(
        f"the guide's posterior of {name!r} is {type(q).__name__}, and importance sampling knows Gaussian families: "
        "use MeanField(), FullCovariance(), LowRank() or SpatialGNN()"
    )
