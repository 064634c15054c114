"""Hidden layers, the same in encoders and decoders: linear, norm, ReLU, dropout."""

import torch
from torch import Tensor, nn

from pyroscvi.part import Part
from pyroscvi.parts.norms import LayerNorm, Norm

__all__ = ["Layers", "beside"]


def beside(*tensors: Tensor) -> Tensor:
    """Concatenate along the last axis, broadcasting the rest.

    Under enumeration and vectorised particles a latent has extra dimensions on its left that the data has not; every
    input of a network passes through here.
    """
    shape = torch.broadcast_shapes(*(t.shape[:-1] for t in tensors))
    wide = [t.expand(*shape, t.shape[-1]) for t in tensors if t.shape[-1]]
    return wide[0] if len(wide) == 1 else torch.cat(wide, -1)


class Layers(Part):
    """h = dropout(relu(norm(A (h, d) + a))), once for every width; the design row d enters the first layer or all."""

    widths: int | tuple[int, ...] = 128
    norm: Norm = LayerNorm()
    dropout: float = 0.0
    everywhere: bool = False

    def build(self, inputs: int, conditions: int = 0) -> None:
        widths = (self.widths,) if isinstance(self.widths, int) else tuple(self.widths)
        self.width = (inputs, *widths)[-1]
        told = [conditions if self.everywhere or layer == 0 else 0 for layer in range(len(widths))]
        sizes = zip((inputs, *widths), told, widths, strict=False)
        self.linear = nn.ModuleList([nn.Linear(n + c, m) for n, c, m in sizes])
        self.norms = nn.ModuleList([self.norm.sized(m) for m in widths])
        self.drop = nn.Dropout(self.dropout)

    def forward(self, h: Tensor, d: Tensor) -> Tensor:
        for layer, (linear, norm) in enumerate(zip(self.linear, self.norms, strict=True)):
            told = beside(h, d) if self.everywhere or layer == 0 else h
            h = self.drop(torch.relu(norm(linear(told))))
        return h
