"""Zero inflation: with some probability a gene is not counted, and its count is then zero."""

import torch
from torch import Size, Tensor

from pyroscvi.distributions.count_vector import CountVector
from pyroscvi.distributions.negative_binomial import NegativeBinomial
from pyroscvi.distributions.poisson import Poisson
from pyroscvi.distributions.shares import Shares

__all__ = ["ZeroInflatedNegativeBinomial", "ZeroInflatedPoisson"]


class _ZeroInflated(CountVector):
    """Let pi = sigmoid(gate) be the probability of an extra zero, and m, v the mean and variance without it. Then

    mean = (1 - pi) m,  variance = (1 - pi) (v + pi m^2)
    """

    def _draw(self, shape: Size) -> Tensor:
        kept = torch.bernoulli(torch.sigmoid(-self.gate).expand(shape))
        return kept * super()._draw(shape)

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
