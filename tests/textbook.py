r"""The textbook formulas of count distributions, one gene at a time: a reference for the fast path.

    Poisson(x | mu)    = mu^x e^-mu / x!
    NB(x | mu, theta)  = Gamma(x + theta) / (Gamma(theta) x!)  (theta / (theta + mu))^theta  (mu / (theta + mu))^x

They are plain torch, and have derivatives of every order. In float64 and at moderate parameters they are exact to ten
digits or more; elsewhere log Gamma(x + theta) - log Gamma(theta) loses digits (see
``pyroscvi.distributions.deviance``).
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def poisson_log_pmf(x: Tensor, log_mu: Tensor) -> Tensor:
    """log Poisson(x | mu)."""
    return x * log_mu - log_mu.exp() - torch.lgamma(x + 1)


def negative_binomial_log_pmf(x: Tensor, log_mu: Tensor, log_theta: Tensor) -> Tensor:
    """log NB(x | mu, theta)."""
    theta = log_theta.exp()
    log_total = torch.logaddexp(log_theta, log_mu)  # log(theta + mu)
    choose = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return choose + theta * (log_theta - log_total) + x * (log_mu - log_total)


def zero_inflated(x: Tensor, log_pmf: Tensor, log_pmf_at_zero: Tensor, gate: Tensor) -> Tensor:
    """log p(x), where x is 0 with probability sigmoid(gate), and otherwise a sample from the pmf."""
    kept = logsigmoid(-gate)
    at_zero = torch.logaddexp(logsigmoid(gate), kept + log_pmf_at_zero)
    return torch.where(x == 0, at_zero, kept + log_pmf)
