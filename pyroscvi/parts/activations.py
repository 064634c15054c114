"""Activations: the function between the linear layers of a network, applied to each hidden unit."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pyroscvi.part import Part
from pyroscvi.ranges import PositiveFloat

__all__ = ["ELU", "GELU", "Activation", "Identity", "LeakyReLU", "ReLU", "SiLU", "Tanh"]


class Activation(Part):
    """A slot from hidden units h [..., width] to f(h), one by one."""

    def forward(self, h: Tensor) -> Tensor:
        raise NotImplementedError


class ReLU(Activation):
    """max(h, 0)."""

    def forward(self, h):
        return torch.relu(h)


class LeakyReLU(Activation):
    """h where it is positive, slope h elsewhere."""

    slope: PositiveFloat = 0.01

    def forward(self, h):
        return F.leaky_relu(h, self.slope)


class ELU(Activation):
    """h where it is positive, exp(h) - 1 elsewhere [Clevert et al., 2016, arXiv:1511.07289]."""

    def forward(self, h):
        return F.elu(h)


class GELU(Activation):
    """h times the standard normal distribution function of h [Hendrycks & Gimpel, 2016, arXiv:1606.08415]."""

    def forward(self, h):
        return F.gelu(h)


class SiLU(Activation):
    """h sigmoid(h) [Elfwing et al., 2018, arXiv:1702.03118]."""

    def forward(self, h):
        return F.silu(h)


class Tanh(Activation):
    """tanh(h)."""

    def forward(self, h):
        return torch.tanh(h)


class Identity(Activation):
    """h, without change: the network is linear."""

    def forward(self, h):
        return h
