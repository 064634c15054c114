"""Dispersions: theta, how far counts scatter about their mean; in log, because 1e-3 and 1e6 are both at home here.

For NB, theta is the inverse dispersion: variance mu + mu^2 / theta. For a Gaussian it is the standard deviation.
"""

from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyroscvi.data.cells import Cells, Dims
from pyroscvi.handlers import read
from pyroscvi.part import Part

__all__ = [
    "Dispersion",
    "Equidispersed",
    "GammaDispersion",
    "PerBatch",
    "PerCell",
    "PerGene",
    "PerLabel",
    "RandomDispersion",
]


class Dispersion(Part):
    """A slot from cells to log theta, [g] or [n, g]; or ``heads``, the predictor it asks of the decoder instead."""

    heads: ClassVar[tuple[str, ...]] = ()

    def build(self, dims: Dims) -> None: ...

    def forward(self, cells: Cells) -> Tensor | None:
        raise NotImplementedError


class Equidispersed(Dispersion):
    """theta is infinite: counts scatter no more than a Poisson does."""

    def forward(self, cells):
        return None


class PerGene(Dispersion):
    """theta_g, a parameter."""

    start: float = 0.0

    def build(self, dims):
        self.log_theta = nn.Parameter(torch.full((dims.genes,), self.start))

    def forward(self, cells):
        return self.log_theta


class PerBatch(Dispersion):
    """theta_gb, a parameter for every gene in every batch; where none is known, log theta averaged over batches."""

    field: ClassVar[str] = "batch"

    def build(self, dims):
        self.log_theta = nn.Parameter(torch.zeros(dims.count(self.field), dims.genes))

    def forward(self, cells):
        b = read(cells, self.field)
        return torch.where((b >= 0).unsqueeze(-1), self.log_theta[b.clamp(min=0)], self.log_theta.mean(0))


class PerLabel(PerBatch):
    """theta_gy, a parameter for every gene in every type; where none is known, log theta averaged over types."""

    field: ClassVar[str] = "label"


class PerCell(Dispersion):
    """theta_ng, a head of the decoder."""

    heads: ClassVar[tuple[str, ...]] = ("theta",)

    def forward(self, cells):
        return None


class RandomDispersion(Dispersion):
    """theta_g ~ LogNormal(m, s): a latent that all cells share, with its own posterior."""

    m: float = 0.0
    s: float = 1.0

    def build(self, dims):
        self.register_buffer("loc", torch.full((dims.genes,), self.m))

    def forward(self, cells):
        return pyro.sample("theta", dist.LogNormal(self.loc, self.s).to_event(1)).log()


class GammaDispersion(Dispersion):
    """theta_g ~ Gamma(a, b), of mean a / b: as ``RandomDispersion``, with more weight on genes that scatter widely."""

    a: float = 2.0
    b: float = 1.0

    def build(self, dims):
        self.register_buffer("shape", torch.full((dims.genes,), self.a))

    def forward(self, cells):
        return pyro.sample("theta", dist.Gamma(self.shape, self.b).to_event(1)).log()
