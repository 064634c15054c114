"""An encoder that reads a cell together with its neighbours in the tissue, by message passing (PyTorch Geometric)."""

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv, MessagePassing, SAGEConv

from pyroscvi.advice import field
from pyroscvi.data.cells import Cells
from pyroscvi.part import Part
from pyroscvi.parts.encoders import Encoder, ReadCell
from pyroscvi.ranges import PositiveInt

TINY = 1e-8  # added to squared lengths, so that the gradient at length 0 is finite

__all__ = ["Attention", "Convolution", "Equivariant", "MeanAggregation", "ReadNeighbours"]


class Convolution(Part):
    """A slot from hidden rows h [n, width] of cells and their halo to messages [n, width]; 0 where a cell has no edge.

    Messages stay the same if the tissue is turned, mirrored or shifted.
    """

    def build(self, width: int) -> None: ...

    def forward(self, h: Tensor, cells: Cells) -> Tensor:
        raise NotImplementedError


class MeanAggregation(Convolution):
    """A linear map of the mean of h over neighbours, wherever they lie [Hamilton et al., 2017]."""

    def build(self, width):
        self.conv = SAGEConv(width, width, aggr="mean", root_weight=False, bias=False)

    def forward(self, h, cells):
        return self.conv(h, cells.edges)


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

    def forward(self, h, cells):
        return self.conv(h, cells.edges, cells.distances.unsqueeze(-1))


class Equivariant(Convolution):
    """Messages that read in which directions the neighbours lie [Satorras et al., 2021, arXiv:2102.09844].

        m_mn = f(h_n, h_m, r_mn)                             ``channels`` numbers for every edge
        v_n  = mean over m of m_mn (s_m - s_n)               vectors, which turn with the tissue
        W [mean over m of m_mn, |v_n|]                       lengths, which do not

    A cell at the border of a domain has long v_n, and a cell whose neighbours are alike on all sides has short ones.
    """

    channels: PositiveInt = 16

    def build(self, width):
        self.messages = _Directed(width, self.channels)
        self.out = nn.Linear(2 * self.channels, width, bias=False)

    def forward(self, h, cells):
        if cells.places is None:
            raise ValueError(f"{self!r} reads where neighbours lie: read coordinates with {field('spatial')}")
        mean, vectors = self.messages(h, cells.edges, cells.distances.unsqueeze(-1), cells.vectors)
        return self.out(torch.cat([mean, (vectors.square().sum(-1) + TINY).sqrt() - TINY**0.5], -1))


class _Directed(MessagePassing):
    """Means over neighbours of m_mn [n, channels] and of m_mn (s_m - s_n) [n, channels, 2 or 3]."""

    def __init__(self, width: int, channels: int):
        super().__init__(aggr="mean")
        self.channels = channels
        self.f = nn.Sequential(nn.Linear(2 * width + 1, channels), nn.SiLU())

    def forward(self, h: Tensor, edges: Tensor, r: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        mean, vectors = self.propagate(edges, h=h, r=r, s=s).tensor_split([self.channels], -1)
        return mean, vectors.unflatten(-1, (self.channels, -1))

    def message(self, h_i: Tensor, h_j: Tensor, r: Tensor, s: Tensor) -> Tensor:
        m = self.f(torch.cat([h_i, h_j, r], -1))
        return torch.cat([m, (m.unsqueeze(-1) * s.unsqueeze(-2)).flatten(1)], -1)


class ReadNeighbours(Encoder):
    """h_n(0) = cell(x_n), then ``hops`` rounds of h_n + relu(messages from neighbours).

    The halo of a minibatch are the neighbours, up to ``hops`` edges away, that are not in it. They are encoded too, so
    that a cell gets the same h_n in every minibatch as in the whole tissue.

    cell   how each cell is read: its counts, or an embedding by another model, ``ReadEmbedding()``
    """

    cell: Encoder = ReadCell()
    convolution: Convolution = Attention()
    hops: PositiveInt = 1

    def build(self, dims):
        if self.cell.hops:
            raise ValueError(f"ReadNeighbours: cell reads each cell alone, not {self.cell!r}: for more hops, set hops")
        self.cell = self.cell.sized(dims)
        self.width = self.cell.width
        self.rounds = nn.ModuleList([self.convolution.sized(self.width) for _ in range(self.hops)])

    @property
    def of_counts(self):
        return self.cell.of_counts

    def forward(self, cells):
        cells.check_hops(self.hops, "the encoder")
        h = self.cell(cells.with_halo)
        for messages in self.rounds:
            h = h + torch.relu(messages(h, cells))
        return h[: len(cells)]
