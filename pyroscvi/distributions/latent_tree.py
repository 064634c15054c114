"""Counts whose genes have discrete states on a tree: the states are summed out by belief propagation.

    p(x) = sum_s prod_g p(s_g | s_parent(g)) p(x_g | s_g)

Messages go from the leaves to the root, all genes of one depth at once, as those of Pyro's ``DiscreteHMM`` go along a
chain. The cost is linear in the number of genes; a sum over all states would have levels^genes terms.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor


class LatentTree(TorchDistribution):
    """Counts x [..., g], independent given the states s [..., g] of the genes; the states are a tree of Markov chains.

    parent  the parent of every gene, -1 for a root [g]
    log_T   log p(s_g = j | s_parent(g) = i) [..., g, i, j]; of a root, the row i = 0 holds log p(s_g = j)
    counts  distribution of the counts if every gene has the level j: batch shape [j, ...], with ``log_pmf``
    """

    has_rsample = False
    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, parent: Tensor, log_T: Tensor, counts: Any, batch_shape: Sequence[int] | None = None):
        self.parent, self.log_T, self.counts = parent, log_T, counts
        batch_shape = counts.batch_shape[1:] if batch_shape is None else Size(batch_shape)
        super().__init__(batch_shape, counts.event_shape, validate_args=False)

    @property
    def support(self) -> Any:  # type: ignore[override]
        return self.counts.support

    @property
    def base_measure(self) -> str:
        return self.counts.base_measure

    @cached_property
    def rounds(self) -> list[Tensor]:
        """The genes of every depth, roots first."""
        depth, above = torch.zeros_like(self.parent), self.parent
        while (above >= 0).any():
            depth = depth + (above >= 0).long()
            above = torch.where(above >= 0, self.parent[above.clamp(min=0)], -1)
        return [(depth == d).nonzero().squeeze(-1) for d in range(int(depth.max()) + 1)]

    def log_prob(self, x: Tensor) -> Tensor:
        if x.dim() > len(self.counts.batch_shape):  # the axis of levels would meet an axis of x
            return torch.stack([self.log_prob(each) for each in x])
        roots = self.rounds[0]
        below = self._below(x)[..., roots, :]
        log_p = (self.log_T[..., roots, 0, :] + below).logsumexp(-1).sum(-1)
        return log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape))

    def _below(self, x: Tensor) -> Tensor:
        """log p(x_g and all counts below it | s_g = j) [..., g, j]."""
        below = self.counts.log_pmf(x).movedim(0, -1)
        for genes in reversed(self.rounds[1:]):
            message = (self.log_T[..., genes, :, :] + below[..., genes, :].unsqueeze(-2)).logsumexp(-1)
            below = below.index_add(-2, self.parent[genes], message.to(below))
        return below

    def after(self, x: Tensor, seen: "LatentTree | None" = None) -> "LatentTree":
        """The same, with the posterior of the states given counts x, which came from ``seen`` (by default from this).

        The posterior of a tree is a tree: p(s_g | s_parent(g), x).
        """
        seen = seen or self
        log_T = (seen.log_T + seen._below(x).unsqueeze(-2)).log_softmax(-1)
        return LatentTree(self.parent, log_T, self.counts)

    def probabilities(self) -> Tensor:
        """p(s_g = j) [..., g, j]."""
        T = self.log_T.exp()
        p = T[..., 0, :]
        for genes in self.rounds[1:]:
            p = p.index_copy(-2, genes, (p[..., self.parent[genes], :].unsqueeze(-1) * T[..., genes, :, :]).sum(-2))
        return p

    def _average(self, value: Tensor) -> Tensor:
        """A value of every level and gene [j, ..., g], averaged over levels [..., g]."""
        return (self.probabilities() * value.movedim(0, -1)).sum(-1)

    @property
    def mu(self) -> Tensor:
        return self._average(getattr(self.counts, "mu", self.counts.mean))

    @property
    def mean(self) -> Tensor:
        return self._average(self.counts.mean)

    @property
    def variance(self) -> Tensor:
        return self._average(self.counts.variance + self.counts.mean**2) - self.mean**2

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._drawn(lambda counts, s: counts.sample(s), sample_shape)

    def sample_as_scored(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws that follow ``log_prob``: ``as_scored``."""
        return self._drawn(lambda counts, s: getattr(counts, "sample_as_scored", counts.sample)(s), sample_shape)

    @torch.no_grad()
    def _drawn(self, draw: Callable[[Any, Size], Tensor], sample_shape: Sequence[int]) -> Tensor:
        batch = Size(sample_shape) + self.batch_shape
        levels = self.log_T.shape[-1]
        noise = -torch.empty(*batch, *self.event_shape, levels).to(self.log_T).exponential_().log()  # Gumbel
        log_T = self.log_T.expand(*batch, *self.log_T.shape[-3:])
        s = (log_T[..., 0, :] + noise).argmax(-1)
        for genes in self.rounds[1:]:
            above = s[..., self.parent[genes], None, None]
            rows = torch.take_along_dim(log_T[..., genes, :, :], above, -2).squeeze(-2)
            s[..., genes] = (rows + noise[..., genes, :]).argmax(-1)
        left = len(batch) - len(self.counts.batch_shape) + 1  # axes that the counts do not have
        of_level = draw(self.counts.expand((levels, *batch[left:])), batch[:left]).movedim(left, 0)
        return torch.take_along_dim(of_level, s.unsqueeze(0), 0)[0]

    def among(self, measured: Tensor, total: Tensor | None = None) -> "LatentTree":
        """These counts, some of which were not measured: ``CountVector.among``."""
        return LatentTree(self.parent, self.log_T, self.counts.among(measured, total))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "LatentTree":
        return LatentTree(self.parent, self.log_T, self.counts, batch_shape)
