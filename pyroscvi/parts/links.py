"""Links: from a cell's log size and a linear predictor to the log mean of every gene."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyroscvi.distributions import Shares
from pyroscvi.part import Part

__all__ = ["Exponential", "Link", "Softmax", "Softplus"]


class Link(Part):
    """A slot from log l [..., 1] and eta [..., g] to log mu [..., g]."""

    def forward(self, log_l: Tensor, eta: Tensor) -> Tensor | Shares:
        raise NotImplementedError


class Softmax(Link):
    """mu_g = l softmax(eta)_g: the size is shared out among the genes."""

    def forward(self, log_l, eta):
        return Shares(eta, log_l)


class Exponential(Link):
    """mu_g = l exp(eta_g): genes are free of each other."""

    def forward(self, log_l, eta):
        return log_l + eta


class Softplus(Link):
    """mu_g = l softplus(eta_g)."""

    def forward(self, log_l, eta):
        # softplus(eta) is exp(eta) long before it underflows
        return log_l + torch.where(eta < -15, eta, softplus(eta.clamp(min=-15)).log())
