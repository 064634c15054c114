"""Norms: they keep the hidden units of a layer in a similar range.

In a decoder, prefer a norm that uses one cell alone. In training mode a ``BatchNorm`` makes p(x_n | z_n) depend on the
other cells of the minibatch, which is not a likelihood of one cell. After ``eval()`` it is one.
"""

import torch
from torch import Tensor, nn

from pyroscvi.part import Part
from pyroscvi.ranges import Fraction, PositiveFloat

__all__ = ["BatchNorm", "Chain", "LayerNorm", "NoNorm", "Norm"]


class Norm(Part):
    """A slot from hidden units h [..., width] to the same units, normalised. ``a + b`` applies a, and then b."""

    def build(self, width: int) -> None: ...

    def forward(self, h: Tensor) -> Tensor:
        return h

    def __add__(self, other: "Norm") -> "Chain":
        return Chain(self, other)


class NoNorm(Norm):
    """h, without change."""


class LayerNorm(Norm):
    """(h - mean h) / sd h over the units of one cell, scaled and shifted [Ba et al., 2016]."""

    def build(self, width):
        self.norm = nn.LayerNorm(width)

    def forward(self, h):
        return self.norm(h)


class BatchNorm(Norm):
    """(h - mean h) / sd h over the cells of a minibatch, scaled and shifted [Ioffe & Szegedy, 2015].

    Leading dimensions (particles, enumerated components) count as cells. A minibatch of one row uses the running
    moments.
    """

    momentum: Fraction = 0.01
    eps: PositiveFloat = 1e-3

    def build(self, width):
        self.norm = nn.BatchNorm1d(width, self.eps, self.momentum)

    def forward(self, h):
        rows = h.reshape(-1, h.shape[-1])
        if len(rows) > 1 or not self.training:
            return self.norm(rows).reshape(h.shape)
        moments = self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias
        return torch.nn.functional.batch_norm(rows, *moments, training=False, eps=self.eps).reshape(h.shape)


class Chain(Norm):
    """One norm after the other: ``BatchNorm() + LayerNorm()``."""

    first: Norm = NoNorm()
    second: Norm = NoNorm()

    def build(self, width):
        self.first, self.second = self.first.sized(width), self.second.sized(width)

    def forward(self, h):
        return self.second(self.first(h))
