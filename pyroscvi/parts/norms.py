"""Norms: how the hidden units of a layer are kept in range.

In a decoder prefer a norm that looks at one cell alone. While a ``BatchNorm`` trains, p(x_n | z_n) depends on the other
cells of the minibatch, and there is no likelihood to speak of until it is frozen by ``eval()``.
"""

import torch
from torch import Tensor, nn

from pyroscvi.part import Part

__all__ = ["BatchNorm", "LayerNorm", "NoNorm", "Norm"]


class Norm(Part):
    def build(self, width: int) -> None: ...

    def forward(self, h: Tensor) -> Tensor:
        return h


class NoNorm(Norm):
    """h as it is."""


class LayerNorm(Norm):
    """(h - mean h) / sd h over the units of one cell, scaled and shifted [Ba et al., 2016]."""

    def build(self, width):
        self.norm = nn.LayerNorm(width)

    def forward(self, h):
        return self.norm(h)


class BatchNorm(Norm):
    """(h - mean h) / sd h over the cells of a minibatch, scaled and shifted [Ioffe & Szegedy, 2015].

    Leading dimensions (particles, enumerated components) count as cells. A lone row is normalised by the running
    moments.
    """

    momentum: float = 0.01
    eps: float = 1e-3

    def build(self, width):
        self.norm = nn.BatchNorm1d(width, self.eps, self.momentum)

    def forward(self, h):
        rows = h.reshape(-1, h.shape[-1])
        if len(rows) > 1 or not self.training:
            return self.norm(rows).reshape(h.shape)
        moments = self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias
        return torch.nn.functional.batch_norm(rows, *moments, training=False, eps=self.eps).reshape(h.shape)
