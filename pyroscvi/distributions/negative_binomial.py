"""The negative binomial distribution of counts: a Poisson whose rate has a Gamma distribution."""

import torch
from torch import Size, Tensor

from pyroscvi.distributions.count_vector import CountVector
from pyroscvi.distributions.parameters import MU_MAX, THETA_MAX, THETA_MIN
from pyroscvi.distributions.shares import Shares
from pyroscvi.torch_internals import standard_gamma

__all__ = ["NegativeBinomial"]


class NegativeBinomial(CountVector):
    """x_g ~ NB(mu_g, theta_g): mean mu, variance mu + mu^2 / theta; theta = infinity is the Poisson.

    log_mu     log mean, or the ``Shares`` that give it  [..., g]
    log_theta  log inverse dispersion                     broadcasts to [..., g]
    """

    def __init__(self, log_mu: Tensor | Shares, log_theta: Tensor):
        super().__init__(log_mu, log_theta)

    def _draw(self, shape: Size) -> Tensor:
        theta = self.theta.clamp(THETA_MIN, THETA_MAX).expand(shape)
        rate = standard_gamma(theta) * (self.mu.clamp(max=MU_MAX) / theta)
        return torch.poisson(rate.clamp(max=MU_MAX))

    @property
    def variance(self) -> Tensor:
        return (self.mu + self.mu**2 / self.theta).expand(self.batch_shape + self.event_shape)
