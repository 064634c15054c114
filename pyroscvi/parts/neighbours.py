"""An encoder that reads a cell together with its neighbours in the tissue, by message passing (PyTorch Geometric)."""

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv

from pyroscvi.part import Part
from pyroscvi.parts.encoders import Encoder, ReadCell
from pyroscvi.ranges import PositiveInt

__all__ = ["Attention", "Convolution", "ReadNeighbours"]


class Convolution(Part):
    """A slot from hidden rows h [n, width] to messages [n, width], given edges [2, e] and their lengths [e]."""

    def build(self, width: int) -> None: ...

    def forward(self, h: Tensor, edges: Tensor, distances: Tensor) -> Tensor:
        raise NotImplementedError


class Attention(Convolution):
    """Attention over neighbours, from the hidden rows of both cells and their distance [Brody et al., 2022]."""

    attention_heads: PositiveInt = 4

    def build(self, width):
        if width % self.attention_heads:
            raise ValueError(
                f"Attention: attention_heads must divide {width}, the encoder's width, not {self.attention_heads}"
            )
        self.conv = GATv2Conv(
            width, width // self.attention_heads, self.attention_heads, edge_dim=1, add_self_loops=False, bias=False
        )

    def forward(self, h, edges, distances):
        return self.conv(h, edges, distances.unsqueeze(-1))


class ReadNeighbours(Encoder):
    """h_n(0) = f(log(1 + x_n)), then ``hops`` rounds of h_n + relu(messages from neighbours).

    The halo of a minibatch are the neighbours, up to ``hops`` edges away, that are not in it. They are encoded too, so
    that a cell gets the same h_n in every minibatch as in the whole tissue.
    """

    cell: ReadCell = ReadCell()
    convolution: Convolution = Attention()
    hops: PositiveInt = 1

    def build(self, dims):
        self.cell = self.cell.sized(dims)
        self.width = self.cell.width
        self.rounds = nn.ModuleList([self.convolution.sized(self.width) for _ in range(self.hops)])

    def forward(self, cells):
        if cells.hops is not None and cells.hops < self.hops:
            raise ValueError(
                f"these cells have neighbours up to {cells.hops} hops away, but the encoder reads {self.hops} hops: "
                f"use cells.take(rows, hops={self.hops})"
            )
        h = self.cell(cells.with_halo)
        for messages in self.rounds:
            h = h + torch.relu(messages(h, cells.edges, cells.distances))
        return h[: len(cells)]
