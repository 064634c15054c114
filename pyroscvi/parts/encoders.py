"""Encoders: how a guide reads cells, before it says anything about their latents."""

import torch
from torch import Tensor

from pyroscvi.data.cells import Cells, Dims
from pyroscvi.part import Part
from pyroscvi.parts.conditions import Condition, Nothing
from pyroscvi.parts.layers import Layers
from pyroscvi.parts.norms import LayerNorm, Norm

__all__ = ["Counts", "Encoder", "Features", "Log1p", "LogShare", "ReadCell"]


class Features(Part):
    """What of the counts x [n, g] an encoder is shown."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Log1p(Features):
    """log(1 + x)."""

    def forward(self, x):
        return x.log1p()


class LogShare(Features):
    """log(1 + 10^4 x / sum x): the total count is hidden from the encoder."""

    def forward(self, x):
        return torch.log1p(1e4 * x / x.sum(-1, keepdim=True).clamp(min=1))


class Counts(Features):
    """x as it is."""

    def forward(self, x):
        return x


class Encoder(Part):
    """A slot from cells to hidden rows h [n, width]; ``hops`` is how far into the tissue it looks."""

    hops = 0

    def build(self, dims: Dims) -> None:
        self.width = 0

    def forward(self, cells: Cells) -> Tensor:
        raise NotImplementedError


class ReadCell(Encoder):
    """h_n = f(log(1 + x_n), d_n): each cell is read alone."""

    widths: int | tuple[int, ...] = 128
    norm: Norm = LayerNorm()
    dropout: float = 0.1
    condition: Condition = Nothing()
    features: Features = Log1p()
    everywhere: bool = False

    def build(self, dims):
        self.condition = self.condition.sized(dims)
        self.layers = Layers(self.widths, self.norm, self.dropout, self.everywhere).sized(
            dims.genes, self.condition.width
        )
        self.width = self.layers.width

    def forward(self, cells):
        return self.layers(self.features(cells.x), self.condition(cells))
