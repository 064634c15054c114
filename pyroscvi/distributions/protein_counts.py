"""Counts of surface proteins: every protein of a cell is background or foreground, which is summed out."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.nn.functional import logsigmoid

from pyroscvi.distributions.count_vector import CountVector


class ProteinCounts(TorchDistribution):
    """Counts x [..., p] of proteins, independent of each other: p(x_j) = pi_j p_f(x_j) + (1 - pi_j) p_b(x_j).

    A protein that was not measured has the count NaN and probability one.

    logits                  of pi, the probability of foreground            [..., p]
    background, foreground  distributions of the counts in either case      [..., p]
    """

    support = CountVector.support
    base_measure: ClassVar[str] = CountVector.base_measure
    has_rsample = False
    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, logits: Tensor, background: CountVector, foreground: CountVector):
        self.logits, self.background, self.foreground = logits, background, foreground
        cells = (logits.shape[:-1], background.batch_shape, foreground.batch_shape)
        super().__init__(torch.broadcast_shapes(*cells), foreground.event_shape, validate_args=False)

    @property
    def probability(self) -> Tensor:
        """Probability of foreground [..., p]."""
        return self.logits.sigmoid()

    def _of_both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x_j, foreground) and log p(x_j, background) [..., p]."""
        counts = x.nan_to_num()
        foreground = logsigmoid(self.logits) + self.foreground.log_pmf(counts)
        return foreground, logsigmoid(-self.logits) + self.background.log_pmf(counts)

    def log_pmf(self, x: Tensor) -> Tensor:
        """log p(x_j) of every protein [..., p]; 0 where it was not measured."""
        return torch.where(x.isnan(), 0.0, torch.logaddexp(*self._of_both(x)))

    def log_prob(self, x: Tensor) -> Tensor:
        return self.log_pmf(x).sum(-1).expand(torch.broadcast_shapes(x.shape[:-1], self.batch_shape))

    def after(self, x: Tensor, seen: "ProteinCounts | None" = None) -> "ProteinCounts":
        """The same, with pi given the counts x, which came from ``seen`` (by default from this)."""
        seen = seen or self
        foreground, background = seen._of_both(x)
        logits = torch.where(x.isnan(), self.logits, foreground - background)
        return ProteinCounts(logits, self.background, self.foreground)

    @property
    def mean(self) -> Tensor:
        return self.probability * self.foreground.mean + (1 - self.probability) * self.background.mean

    @property
    def variance(self) -> Tensor:
        of_both = ((self.probability, self.foreground), (1 - self.probability, self.background))
        first, second = (p * (counts.variance + counts.mean**2) for p, counts in of_both)
        return first + second - self.mean**2

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "ProteinCounts":
        logits = self.logits.expand(Size(batch_shape) + self.event_shape)
        return ProteinCounts(logits, self.background, self.foreground)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        batch = shape[:-1]
        is_foreground = torch.bernoulli(self.probability.expand(shape)).bool()
        foreground, background = (one.expand(batch).sample() for one in (self.foreground, self.background))
        return torch.where(is_foreground, foreground, background)
