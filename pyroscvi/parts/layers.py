"""Hidden layers of encoders and decoders: linear, norm, activation, dropout."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as times

from pyroscvi.data.csr import CSR
from pyroscvi.part import Part
from pyroscvi.parts.activations import Activation, ReLU
from pyroscvi.parts.norms import LayerNorm, Norm
from pyroscvi.ranges import Dropout, Widths

__all__ = ["Layers", "affine", "beside"]


def beside(*tensors: Tensor) -> Tensor:
    """Concatenate along the last axis; broadcast the other axes.

    Under enumeration and vectorised particles a latent has dimensions on the left that data does not have. So every
    input of a network passes through this function or through ``affine``.
    """
    shape = torch.broadcast_shapes(*(t.shape[:-1] for t in tensors))
    wide = [t.expand(*shape, t.shape[-1]) for t in tensors if t.shape[-1]]
    return wide[0] if len(wide) == 1 else torch.cat(wide, -1)


def affine(layer: Any, h: Tensor | CSR, d: Tensor) -> Tensor:
    """A (h, d) + a of a linear layer, where (h, d) are h and d concatenated; the other axes broadcast.

    If only one of h and d has the dimension of an enumerated level, each is multiplied at its own size and the products
    are added. So the other one is multiplied once, not once for each level.
    """
    if not isinstance(h, CSR) and (not d.shape[-1] or h.shape[:-1] == d.shape[:-1]):
        return layer(beside(h, d))
    to_h, to_d = layer.weight.tensor_split([layer.in_features - d.shape[-1]], 1)
    of_h = h.linear(to_h) if isinstance(h, CSR) else times(h, to_h)
    of_d = times(d, to_d, layer.bias) if d.shape[-1] or layer.bias is None else layer.bias
    return of_h + of_d


class Layers(Part):
    """h = dropout(f(norm(A (h, d) + a))) for every width; the design row d enters the first layer or all layers."""

    widths: Widths = 128
    norm: Norm = LayerNorm()
    dropout: Dropout = 0.0
    everywhere: bool = False
    activation: Activation = ReLU()

    def build(self, inputs: int, conditions: int = 0) -> None:
        widths = (self.widths,) if isinstance(self.widths, int) else tuple(self.widths)
        self.width = (inputs, *widths)[-1]
        design = [conditions if self.everywhere or layer == 0 else 0 for layer in range(len(widths))]
        sizes = zip((inputs, *widths), design, widths, strict=False)
        self.linear = nn.ModuleList([nn.Linear(n + c, m) for n, c, m in sizes])
        self.norms = nn.ModuleList([self.norm.sized(m) for m in widths])
        self.drop = nn.Dropout(self.dropout)

    def forward(self, inputs: Tensor | CSR, d: Tensor) -> Tensor:
        h: Any = inputs
        for layer, (linear, norm) in enumerate(zip(self.linear, self.norms, strict=True)):
            h = affine(linear, h, d) if self.everywhere or layer == 0 else linear(h)
            h = self.drop(self.activation(norm(h)))
        return h
