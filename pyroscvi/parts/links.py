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
    """mu_g = l softmax(eta)_g: the genes divide the size among them, so that the means of a cell sum to l."""

    def forward(self, log_l, eta):
        return Shares(eta, log_l)


class Exponential(Link):
    """mu_g = l exp(eta_g): the mean of a gene does not depend on other genes."""

    def forward(self, log_l, eta):
        return log_l + eta


class Softplus(Link):
    """mu_g = l softplus(eta_g)."""

    def forward(self, log_l, eta):
        # below -15 softplus(eta) equals exp(eta), whose log does not underflow
        return log_l + torch.where(eta < -15, eta, softplus(eta.clamp(min=-15)).log())
