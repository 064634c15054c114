"""Dispersions: theta, how far counts scatter around their mean. Parts return log theta: theta may be 1e-3 or 1e6.

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
from pyroscvi.ranges import Finite, PositiveFloat

__all__ = [
    "Dispersion", "Equidispersed", "GammaDispersion", "PerBatch", "PerCell", "PerGene", "PerLabel", "RandomDispersion",
]  # fmt: skip


class Dispersion(Part):
    """A slot from cells to log theta, [g] or [n, g]; or None if the decoder predicts it, as a head (``heads``)."""

    heads: ClassVar[tuple[str, ...]] = ()

    def build(self, dims: Dims) -> None: ...

    def forward(self, cells: Cells) -> Tensor | None:
        raise NotImplementedError

    def single(self):
        return [self.log_theta] if "log_theta" in self._parameters else []


class Equidispersed(Dispersion):
    """theta is infinite: counts have the variance of a Poisson, and there is no dispersion parameter."""

    def forward(self, cells):
        return None


class PerGene(Dispersion):
    """theta_g: one parameter for each gene; ``start`` is the initial log theta."""

    start: Finite = 0.0

    def build(self, dims):
        self.log_theta = nn.Parameter(torch.full((dims.genes,), self.start))

    def forward(self, cells):
        return self.log_theta


class PerBatch(Dispersion):
    """theta_gb: one parameter for each gene and batch. A cell of unknown batch gets log theta averaged over batches."""

    field: ClassVar[str] = "batch"

    def build(self, dims):
        self.log_theta = nn.Parameter(torch.zeros(dims.count(self.field), dims.genes))

    def forward(self, cells):
        b = read(cells, self.field)
        return torch.where((b >= 0).unsqueeze(-1), self.log_theta[b.clamp(min=0)], self.log_theta.mean(0))


class PerLabel(PerBatch):
    """theta_gy: one parameter for each gene and label. A cell of unknown label gets log theta averaged over labels."""

    field: ClassVar[str] = "label"


class PerCell(Dispersion):
    """theta_ng: predicted by the decoder for each cell and gene."""

    heads: ClassVar[tuple[str, ...]] = ("theta",)

    def forward(self, cells):
        return None


class RandomDispersion(Dispersion):
    """theta_g ~ LogNormal(m, s): a latent shared by all cells, with a posterior of its own."""

    m: Finite = 0.0
    s: PositiveFloat = 1.0

    def build(self, dims):
        self.register_buffer("loc", torch.full((dims.genes,), self.m))

    def forward(self, cells):
        return pyro.sample("theta", dist.LogNormal(self.loc, self.s).to_event(1)).log()


class GammaDispersion(Dispersion):
    """theta_g ~ Gamma(a, b), with mean a / b. Near theta = 0 its density falls more slowly than a LogNormal."""

    a: PositiveFloat = 2.0
    b: PositiveFloat = 1.0

    def build(self, dims):
        self.register_buffer("shape", torch.full((dims.genes,), self.a))

    def forward(self, cells):
        return pyro.sample("theta", dist.Gamma(self.shape, self.b).to_event(1)).log()
