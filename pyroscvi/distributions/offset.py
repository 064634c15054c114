"""A density times a factor: one term of a joint density, which does not integrate to 1 by itself."""

from typing import Any

from pyro.distributions import MaskedDistribution
from torch import Tensor


class Offset(MaskedDistribution):
    """``base_dist`` whose log-density is larger by ``offset`` [n]; samples are those of ``drawn``.

    It masks nothing. Pyro's class is used because it takes the support from its base.
    """

    def __init__(self, base: Any, offset: Tensor, drawn: Any):
        super().__init__(base, True)
        self.offset, self.drawn = offset, drawn

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Offset":
        return Offset(
            self.base_dist.expand(batch_shape), self.offset.expand(batch_shape), self.drawn.expand(batch_shape)
        )

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.drawn.rsample(sample_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.drawn.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base_dist.log_prob(value) + self.offset
