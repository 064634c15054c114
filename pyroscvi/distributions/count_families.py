"""Distributions of counts: Poisson and negative binomial, and both with extra zeros."""

import torch
from torch import Size, Tensor

from pyroscvi.distributions.count_vector import CountVector
from pyroscvi.distributions.parameters import MU_MAX, THETA_MAX, THETA_MIN, Shares
from pyroscvi.torch_internals import standard_gamma


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


class NegativeBinomial(CountVector):
    """x_g ~ NB(mu_g, theta_g): mean mu, variance mu + mu^2 / theta; theta = infinity is the Poisson.

    It is a Poisson whose rate has a Gamma distribution.

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


class _ZeroInflated(CountVector):
    """With some probability a gene is not counted, and its count is then zero.

    Let pi = sigmoid(gate) be the probability of an extra zero, and m, v the mean and variance without it. Then

    mean = (1 - pi) m,  variance = (1 - pi) (v + pi m^2)
    """

    def _draw(self, shape: Size) -> Tensor:
        is_count = torch.bernoulli(torch.sigmoid(-self.gate).expand(shape))
        return is_count * super()._draw(shape)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(-self.gate) * super().mean

    @property
    def variance(self) -> Tensor:
        return torch.sigmoid(-self.gate) * (super().variance + torch.sigmoid(self.gate) * super().mean ** 2)


class ZeroInflatedPoisson(_ZeroInflated, Poisson):
    """x_g is 0 with probability sigmoid(gate_g), otherwise x_g ~ Poisson(mu_g).

    log_mu  log mean, or the ``Shares`` that give it    [..., g]
    gate    logits of the probability of an extra zero   broadcasts to [..., g]
    """

    def __init__(self, log_mu: Tensor | Shares, gate: Tensor):
        CountVector.__init__(self, log_mu, None, gate)


class ZeroInflatedNegativeBinomial(_ZeroInflated, NegativeBinomial):
    """x_g is 0 with probability sigmoid(gate_g), otherwise x_g ~ NB(mu_g, theta_g).

    log_mu     log mean, or the ``Shares`` that give it    [..., g]
    log_theta  log inverse dispersion                       broadcasts to [..., g]
    gate       logits of the probability of an extra zero   broadcasts to [..., g]
    """

    def __init__(self, log_mu: Tensor | Shares, log_theta: Tensor, gate: Tensor):
        CountVector.__init__(self, log_mu, log_theta, gate)
