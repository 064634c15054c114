"""Encoders: the networks with which a guide reads cells, before its heads predict the posteriors of their latents."""

import torch
from torch import Tensor

from pyroscvi.advice import field
from pyroscvi.data.cells import Cells, Dims
from pyroscvi.data.csr import CSR
from pyroscvi.part import Part
from pyroscvi.parts.activations import Activation, ReLU
from pyroscvi.parts.conditions import Condition, Nothing
from pyroscvi.parts.layers import Layers, beside
from pyroscvi.parts.norms import LayerNorm, Norm
from pyroscvi.ranges import Dropout, Widths

__all__ = ["Counts", "Encoder", "Features", "Log1p", "LogShare", "ReadCell", "ReadEmbedding"]


class Features(Part):
    """A slot from counts x [n, g] to the input of an encoder [n, g]."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def above_zero(self, counts: CSR) -> Tensor | None:
        """The inputs for the k counts above zero [k]; None if an input can differ from zero where the count is zero."""
        return None


class Log1p(Features):
    """log(1 + x)."""

    def forward(self, x):
        return (1 + x).log()  # equal to log1p for counts, and faster

    def above_zero(self, counts):
        return self(counts.values)


class LogShare(Features):
    """log(1 + 10^4 x / sum x): the encoder does not see the total count."""

    def forward(self, x):
        return self._of(x, x.sum(-1, keepdim=True))

    def above_zero(self, counts):
        return self._of(counts.values, counts.totals())

    @staticmethod
    def _of(x: Tensor, total: Tensor) -> Tensor:
        return torch.log1p(1e4 * x / total.clamp(min=1))


class Counts(Features):
    """x, without change."""

    def forward(self, x):
        return x

    def above_zero(self, counts):
        return self(counts.values)


AS_THEY_ARE = Counts()


class Encoder(Part):
    """A slot from cells to hidden rows h [n, width]; it reads neighbours up to ``hops`` edges away."""

    @property
    def of_counts(self) -> bool:
        """Whether counts and conditions are all that it reads of a cell."""
        return True

    def build(self, dims: Dims) -> None:
        self.width = 0

    def forward(self, cells: Cells) -> Tensor:
        raise NotImplementedError


class NoEncoder(Encoder):
    """Nothing is read."""

    def forward(self, cells):
        return torch.zeros(len(cells), 0, dtype=cells.dtype, device=cells.device)


class ReadCell(Encoder):
    """h_n = f(log(1 + x_n), d_n): each cell is read without its neighbours.

    Values that are not counts are read as they are. If the model observes proteins, they are read too: log(1 + count),
    and which of them were measured.
    """

    widths: Widths = 128
    norm: Norm = LayerNorm()
    dropout: Dropout = 0.1
    condition: Condition = Nothing()
    features: Features = Log1p()
    everywhere: bool = False
    activation: Activation = ReLU()

    def build(self, dims):
        self.condition = self.condition.sized(dims)
        self.proteins = dims.proteins
        hidden = Layers(self.widths, self.norm, self.dropout, self.everywhere, self.activation)
        self.layers = hidden.sized(dims.genes, self.condition.width + 2 * self.proteins)
        self.width = self.layers.width

    def forward(self, cells):
        d = self.condition(cells)
        if self.proteins:
            counts = cells.protein_counts(self.proteins)
            d = beside(d, counts.nan_to_num().log1p(), (~counts.isnan()).to(counts))
        return self.layers(self._inputs(cells), d)

    def _inputs(self, cells: Cells) -> Tensor | CSR:
        """The inputs [n, g]: dense in training, for gradients; otherwise sparse, if the cells and features allow it."""
        features = AS_THEY_ARE if cells.real else self.features
        if not torch.is_grad_enabled() and cells.csr is not None:
            values = features.above_zero(cells.csr)
            if values is not None:
                return cells.csr._replace(values=values)
        return features(cells.x)


class ReadEmbedding(Encoder):
    """h_n = f(e_n, d_n), with an embedding e_n of the cell by another model, such as a foundation model.

    ``Fields(embedding="X_other")`` reads it. The model still explains the counts, and the evidence is theirs.

    counts   read the counts, too: the output of this encoder of counts is put beside that of the embedding
    """

    widths: Widths = 128
    norm: Norm = LayerNorm()
    dropout: Dropout = 0.1
    condition: Condition = Nothing()
    activation: Activation = ReLU()
    counts: Encoder = NoEncoder()

    def build(self, dims):
        if not dims.embedding:
            raise ValueError(f"ReadEmbedding: no embedding was read: name its key of obsm, {field('embedding')}")
        self.condition, self.counts = self.condition.sized(dims), self.counts.sized(dims)
        hidden = Layers(self.widths, self.norm, self.dropout, activation=self.activation)
        self.layers = hidden.sized(dims.embedding, self.condition.width)
        self.width = self.layers.width + self.counts.width

    @property
    def of_counts(self):
        return False

    def forward(self, cells):
        if cells.embedding is None:
            raise ValueError(f"these cells have no embedding, which the guide reads: {field('embedding')}")
        return beside(self.layers(cells.embedding, self.condition(cells)), self.counts(cells))
