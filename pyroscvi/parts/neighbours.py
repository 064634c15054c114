"""An encoder that reads a cell with its neighbours in the tissue, by message passing of PyTorch Geometric."""

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv

from pyroscvi.part import Part
from pyroscvi.parts.encoders import Encoder, ReadCell

__all__ = ["Attention", "Convolution", "ReadNeighbours"]


class Convolution(Part):
    """A slot from hidden rows h [n, width] to messages [n, width], given edges [2, e] and their lengths [e]."""

    def build(self, width: int) -> None: ...

    def forward(self, h: Tensor, edges: Tensor, distances: Tensor) -> Tensor:
        raise NotImplementedError


class Attention(Convolution):
    """Attention over neighbours, given both ends and the distance between them [Brody et al., 2022]."""

    attention_heads: int = 4

    def build(self, width):
        self.conv = GATv2Conv(
            width, width // self.attention_heads, self.attention_heads, edge_dim=1, add_self_loops=False, bias=False
        )

    def forward(self, h, edges, distances):
        return self.conv(h, edges, distances.unsqueeze(-1))


class ReadNeighbours(Encoder):
    """h_n(0) = f(log(1 + x_n)), then ``hops`` rounds of h_n + relu(messages from neighbours).

    Rows of the halo are read like rows of the minibatch, so that a minibatch is read exactly as the whole tissue is.
    """

    cell: ReadCell = ReadCell()
    convolution: Convolution = Attention()
    hops: int = 1

    def build(self, dims):
        self.cell = self.cell.sized(dims)
        self.width = self.cell.width
        self.rounds = nn.ModuleList([self.convolution.sized(self.width) for _ in range(self.hops)])

    def forward(self, cells):
        if cells.hops is not None and cells.hops < self.hops:
            raise ValueError(
                f"these cells brought neighbours {cells.hops} hops away, {self.hops} are needed: take(..., hops=)"
            )
        h = self.cell(cells.with_halo())
        for messages in self.rounds:
            h = h + torch.relu(messages(h, cells.edges, cells.distances))
        return h[: len(cells)]
