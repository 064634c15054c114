"""A prior of proportions under which only some types are present."""

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Normal, constraints
from torch.nn.functional import logsigmoid

from pyroscvi.parts.priors import Prior
from pyroscvi.ranges import Finite, PositiveFloat

__all__ = ["Sparse"]

MAX_PRESENT = 0.95  # largest probability that a type is present


class Sparse(Prior):
    """z_f ~ pi Normal(0, s) + (1 - pi) Normal(absent, s) for each type f. The decoder gets softmax(z), proportions.

    Each of F types is present with probability pi = types / F. The counts depend on z alone, so presence is summed out
    exactly, type by type: 2 terms for each type, not one for each set of types. A type that is absent has about
    exp(absent) of the proportion of one that is present.

    types   mean number of types in a cell. It is declared and not learned: in training it would rise before types
            become absent, and stay high. ``compare`` fits with several values
    """

    proportions: ClassVar[bool] = True

    types: PositiveFloat = 2.0
    s: PositiveFloat = 1.0
    absent: Finite = -5.0

    def build(self, latent):
        self.register_buffer("loc", torch.zeros(latent))
        pi = torch.full((latent,), min(self.types / latent, MAX_PRESENT))
        self.register_buffer("logits", pi.logit())

    @property
    def _distribution(self) -> "TwoNormals":
        return TwoNormals(self.logits, self.absent + self.loc, self.loc, self.s)

    def forward(self):
        return self.state(pyro.sample("z", self._distribution))

    def state(self, z):
        return z.softmax(-1)

    def presence(self, z: Tensor) -> Tensor:
        """Probability that each type is present, given z [..., latent]."""
        return self._distribution.presence(z)


class TwoNormals(TorchDistribution):
    """A vector of independent numbers, each from one of two Gaussians with standard deviation s.

    logits   of the probability of the upper one   [f]
    lower    mean of the lower Gaussian            [f]
    upper    mean of the upper Gaussian            [f]
    """

    support = constraints.independent(constraints.real, 1)
    has_rsample = False
    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, logits: Tensor, lower: Tensor, upper: Tensor, s: float, batch_shape: Sequence[int] = ()):
        self.logits, self.lower, self.upper, self.s = logits, lower, upper, s
        super().__init__(Size(batch_shape), logits.shape, validate_args=False)

    def _of_both(self, z: Tensor) -> tuple[Tensor, Tensor]:
        upper = logsigmoid(self.logits) + Normal(self.upper, self.s, validate_args=False).log_prob(z)
        return upper, logsigmoid(-self.logits) + Normal(self.lower, self.s, validate_args=False).log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        log_p = torch.logaddexp(*self._of_both(z)).sum(-1)
        return log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape))

    def presence(self, z: Tensor) -> Tensor:
        """Probability of the upper Gaussian, given z [..., f]."""
        upper, lower = self._of_both(z)
        return (upper - lower).sigmoid()

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "TwoNormals":
        return TwoNormals(self.logits, self.lower, self.upper, self.s, batch_shape)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        is_upper = torch.bernoulli(self.logits.sigmoid().expand(shape)).bool()
        return torch.where(is_upper, self.upper, self.lower) + self.s * torch.randn_like(is_upper.to(self.logits))
