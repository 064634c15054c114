"""The Poisson."""

import torch
from torch import Size, Tensor

from pyroscvi.distributions.count_vector import CountVector
from pyroscvi.distributions.shares import Shares

__all__ = ["Poisson"]


class Poisson(CountVector):
    """x_g ~ Poisson(mu_g): mean and variance mu.

    log_mu  log mean, or the ``Shares`` it is made of  [..., g]
    """

    def __init__(self, log_mu: Tensor | Shares):
        super().__init__(log_mu)

    def _draw(self, shape: Size) -> Tensor:
        return torch.poisson(self.mu.expand(shape))

    @property
    def mean(self) -> Tensor:
        return self.mu.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        return self.mu.expand(self.batch_shape + self.event_shape)
