"""The Poisson distribution of counts."""

import torch
from torch import Size, Tensor

from pyroscvi.distributions.count_vector import CountVector
from pyroscvi.distributions.parameters import MU_MAX
from pyroscvi.distributions.shares import Shares

__all__ = ["Poisson"]


class Poisson(CountVector):
    """x_g ~ Poisson(mu_g): mean and variance are mu.

    log_mu  log mean, or the ``Shares`` that give it  [..., g]
    """

    def __init__(self, log_mu: Tensor | Shares):
        super().__init__(log_mu)

    def _draw(self, shape: Size) -> Tensor:
        return torch.poisson(self.mu.clamp(max=MU_MAX).expand(shape))  # at a mean of 2^63 torch returns negative counts

    @property
    def variance(self) -> Tensor:
        return super().mean
