"""Proposals: where importance sampling looks for the latents of a cell.

    >>> StudentT()
    StudentT()
    >>> StudentT(df=3)
    StudentT(df=3)

An estimate is the better, the more the proposal is like the posterior, above all in the tails. Where the proposal has
lighter tails, the rare draw that matters is missing, and nothing in the sample shows it.
"""

from collections.abc import Callable
from math import inf, lgamma, log, pi
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import pyro.distributions as dist
import torch
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.distributions.mixed_gaussians import MixedGaussians
from pyroscvi.evidence.streams import Streams
from pyroscvi.inference.seeds import seeded
from pyroscvi.part import Part, hops_of

LogJoint = Callable[[Tensor], Tensor]
MOMENT_DRAWS = 512  # for the moments of a guide that is not Gaussian


class Draws(Protocol):
    """What a proposal returns: it samples u [s, n, d] and computes their log-density [s, n]."""

    def sample(self, streams: Streams, s: int) -> Tensor: ...

    def log_prob(self, u: Tensor) -> Tensor: ...

    def factor(self) -> Tensor:
        """A lower triangular L [n, d, d] such that L L' is the scale matrix of the draws about one of their modes."""

    def take(self, index: Tensor) -> Self:
        """The draws of some of the cells."""


class Elliptical(NamedTuple):
    """u_n = loc_n + L_n e, with e normal, or Student's t with ``df`` degrees of freedom.

    loc         [n, d], or of several parts [part, n, d]
    scale_tril  L, lower triangular  [..., n, d, d]
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
        """loc_n + L_n e [..., s, n, d], for e [s, n, d]."""
        return self.loc.unsqueeze(-3) + torch.einsum("...nij,snj->...sni", self.scale_tril, e)

    def factor(self) -> Tensor:
        return self.scale_tril

    def take(self, index: Tensor) -> "Elliptical":
        return Elliptical(self.loc[..., index, :], self.scale_tril[..., index, :, :], self.df)

    def part(self, k: int) -> "Elliptical":
        """One of several parts."""
        return Elliptical(self.loc[k], self.scale_tril[k], self.df)

    def put(self, index: Tensor, others: "Elliptical") -> "Elliptical":
        """These draws, with others for the cells at ``index``."""
        loc = self.loc.index_copy(-2, index, others.loc)
        return Elliptical(loc, self.scale_tril.index_copy(-3, index, others.scale_tril), self.df)

    def log_prob(self, u: Tensor) -> Tensor:
        """The log-density [..., s, n] of u [s, n, d]."""
        d = self.loc.shape[-1]
        deviation = (u - self.loc.unsqueeze(-3)).movedim(-3, -1)  # [..., n, d, s]
        e = torch.linalg.solve_triangular(self.scale_tril, deviation, upper=False)
        square = (e * e).sum(-2).mT
        log_volume = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1).unsqueeze(-2)
        if self.df == inf:
            return -0.5 * (square + d * log(2 * pi)) - log_volume
        half = (self.df + d) / 2
        constant = lgamma(half) - lgamma(self.df / 2) - 0.5 * d * log(pi * self.df)
        return constant - log_volume - half * (square / self.df).log1p()


class Mixed(NamedTuple):
    """A mixture: each draw comes from one of several parts.

    parts    loc [part, n, d], scale_tril [part, n, d, d]
    weights  probability of each part for every cell  [part, n]
    spread   variance of importance weights, relative to their squared mean; infinite where it is not known  [n]
    size     effective draws behind the covariance of each part; 0 for a guess  [part, n]
    """

    parts: Elliptical
    weights: Tensor
    spread: Tensor
    size: Tensor

    def sample(self, streams: Streams, s: int) -> Tensor:
        return self.at(self.parts.noise(streams, s), streams.uniform(s).to(self.weights))

    def at(self, e: Tensor, uniform: Tensor) -> Tensor:
        """Draws [s, n, d] from noise e [s, n, d], and uniform numbers [s, n] that choose the parts."""
        chosen = (uniform > self.weights.cumsum(0)[:-1].unsqueeze(1)).sum(0)  # e is shared: only one part is chosen
        return torch.take_along_dim(self.parts.around(e), chosen[None, :, :, None], 0)[0]

    def factor(self) -> Tensor:
        scales = self.parts.scale_tril @ self.parts.scale_tril.mT
        return torch.linalg.cholesky((self.weights[..., None, None] * scales).sum(0))

    def take(self, index: Tensor) -> "Mixed":
        return Mixed(self.parts.take(index), self.weights[:, index], self.spread[index], self.size[:, index])

    def put(self, index: Tensor, others: "Mixed") -> "Mixed":
        """This mixture, with others for the cells at ``index``."""
        weights, size = (old.index_copy(1, index, new) for old, new in zip(self[1::2], others[1::2], strict=True))
        spread = self.spread.index_copy(0, index, others.spread)
        return Mixed(self.parts.put(index, others.parts), weights, spread, size)

    def log_prob(self, u: Tensor) -> Tensor:
        return self.parts.log_prob(u).add(self.weights.log().unsqueeze(1)).logsumexp(0)

    def compact(self) -> "Mixed":
        """The same mixture without parts that no cell uses; the order of the parts is another one for each cell."""
        used = int((self.weights > 0).sum(0).max())
        order = self.weights.argsort(0, descending=True)[:used]
        loc = self.parts.loc.take_along_dim(order[..., None], 0)
        scale_tril = self.parts.scale_tril.take_along_dim(order[..., None, None], 0)
        weights, size = (values.take_along_dim(order, 0) for values in (self.weights, self.size))
        return Mixed(Elliptical(loc, scale_tril, self.parts.df), weights, self.spread, size)


class Proposal(Part):
    """A slot that maps the guide's Gaussian over latents, and their log-density, to draws."""

    method: ClassVar[str] = "importance"  # the name in a table of an evidence that was estimated with these draws

    def forward(self, q: Elliptical, log_joint: LogJoint) -> Draws:
        raise NotImplementedError


def by_component(log_joint: LogJoint) -> LogJoint:
    """The densities [k, s, n] that add up to this one, one for every level of the enumerated sites; usually one."""
    return getattr(log_joint, "by_component", lambda u: log_joint(u).unsqueeze(0))


class GuideDraws(Proposal):
    """u ~ q(u | x), the guide's own Gaussian. Exact with any number of particles where q is the posterior."""

    def forward(self, q, log_joint):
        return q


class StudentT(Proposal):
    """The guide's Gaussian, widened and with Student-t tails: weights stay bounded where the guide is too narrow."""

    df: float = 5.0
    widen: float = 1.15

    def forward(self, q, log_joint):
        return Elliptical(q.loc, self.widen * q.scale_tril, self.df)


def beside(
    parts: Elliptical, log_weights: Tensor, own: Elliptical, share: float, spread: Tensor | None = None,
    size: Tensor | None = None,
) -> Mixed:  # fmt: skip
    """A mixture of parts, of these unnormalised log weights [part, n], and of the guide's own with a share of draws."""
    weights = (1 - share) * log_weights.softmax(0)
    both = Elliptical(
        torch.cat([parts.loc, own.loc[None]]), torch.cat([parts.scale_tril, own.scale_tril[None]]), own.df
    )
    spread = torch.full_like(weights[0], inf) if spread is None else spread
    size = torch.zeros_like(weights) if size is None else size
    weights = torch.cat([weights, torch.full_like(weights[:1], share)])
    return Mixed(both, weights, spread, torch.cat([size, torch.zeros_like(size[:1])]))


def widened(q: Elliptical) -> Elliptical:
    """A Student-t a little wider than q. Tails that suit five dimensions leave few effective draws in thirty."""
    d = q.loc.shape[-1]
    return Elliptical(q.loc, widening(d) * q.scale_tril, max(5.0, float(d)))


def widening(d: int) -> float:
    """How much wider than the posterior a proposal is."""
    return 1 + min(0.15, 0.75 / max(d, 1))


def together(guide: Any, cells: Cells) -> Elliptical:
    """The guide's posterior of every cell as one Gaussian over all its latents, concatenated.

    For a guide that is not Gaussian (a flow, a mixture), the Gaussian has the moments of its draws. The estimator that
    starts from this Gaussian does not use anything else of such a guide.
    """
    of_sites = moments(guide, cells).values()
    size = sum(loc.shape[-1] for loc, _ in of_sites)
    loc = torch.zeros(len(cells), size, dtype=cells.dtype, device=cells.device)
    scale_tril = torch.zeros(len(cells), size, size, dtype=cells.dtype, device=cells.device)
    start = 0
    for mean, factor in of_sites:
        block = slice(start, start + mean.shape[-1])
        loc[:, block] = mean
        scale_tril[:, block, block] = factor
        start = block.stop
    return Elliptical(loc, scale_tril)


def moments(guide: Any, cells: Cells) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean [n, d] and Cholesky factor of the covariance [n, d, d] of the guide's posterior of every site."""
    return {
        name: _gaussian_moments(q) or flow_moments(q) or _sample_moments(guide, name, cells)
        for name, q in guide.posteriors(cells).items()
    }


def _gaussian_moments(q: Any) -> tuple[Tensor, Tensor] | None:
    """Mean [n, d] and Cholesky factor of the covariance [n, d, d] of Gaussians, also mixed; None for another one."""
    if isinstance(q, dist.Independent) and isinstance(q.base_dist, dist.Normal):
        return q.base_dist.loc, q.base_dist.scale.diag_embed()
    if isinstance(q, dist.MultivariateNormal | dist.LowRankMultivariateNormal):
        return q.loc, q.scale_tril
    if isinstance(q, MixedGaussians):
        return q.mean, torch.linalg.cholesky(q.covariance_matrix)
    return None


def flow_samples(q: Any) -> Tensor | None:
    """Samples [s, ..., d] of a transformed Gaussian, with the same noise for every cell; None for another one."""
    if not isinstance(q, torch.distributions.TransformedDistribution):
        return None
    if (before := flow_samples(q.base_dist)) is None:
        if isinstance(q.base_dist, MixedGaussians) or (moments := _gaussian_moments(q.base_dist)) is None:
            return None
        loc, scale_tril = moments
        with seeded(0, loc.device):
            e = torch.randn(MOMENT_DRAWS // 2, *(1,) * (loc.dim() - 1), loc.shape[-1]).to(loc)
        e = torch.cat([e, -e]).unsqueeze(-1)  # so that the mean of a nearly affine flow is nearly exact
        before = loc + (scale_tril @ e).squeeze(-1)
    flow = torch.distributions.ComposeTransform(q.transforms)
    return torch.cat([flow(some) for some in before.split(32)])


def flow_moments(q: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and Cholesky factor of the covariance of a transformed Gaussian, from samples; None for another one."""
    return None if (samples := flow_samples(q)) is None else _moments_of(samples)


def _sample_moments(guide: Any, name: str, cells: Cells) -> tuple[Tensor, Tensor]:
    """Mean [n, d] and Cholesky factor [n, d, d] of draws; cells are read one by one and do not depend on each other."""
    draws = []
    for i in range(len(cells)):
        with seeded(0, cells.device):
            one = cells.take(torch.tensor([i]), hops_of(guide))
            draws.append(guide.posteriors(one)[name].sample((MOMENT_DRAWS,))[:, 0])
    return _moments_of(torch.stack(draws, 1))


def _moments_of(u: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [n, d] and Cholesky factor [n, d, d] of draws [s, n, d]."""
    deviation = u - u.mean(0)
    covariance = torch.einsum("sni,snj->nij", deviation, deviation) / (len(u) - 1)
    floor = 1e-8 * covariance.diagonal(dim1=-2, dim2=-1).mean(-1) + 1e-12
    return u.mean(0), torch.linalg.cholesky(covariance + floor[:, None, None] * torch.eye(u.shape[-1]).to(u))
