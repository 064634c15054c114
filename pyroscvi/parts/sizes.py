"""Sizes l_n: how much of a cell was sequenced. The choice decides whether the evidence is p(x) or p(x | l)."""

from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyroscvi.advice import field
from pyroscvi.data.cells import Cells, Dims
from pyroscvi.handlers import read
from pyroscvi.part import Part

__all__ = ["LatentSize", "ObservedSize", "Size", "SizeFactor", "UnitSize"]


class Size(Part):
    """A slot from cells to sizes l [n, 1]; ``given`` is "l" if the evidence is conditional on l, otherwise empty."""

    def build(self, dims: Dims) -> None: ...

    def forward(self, cells: Cells) -> Tensor:
        raise NotImplementedError


class ObservedSize(Size):
    """l_n = sum_g x_ng, the total of the cell. The evidence is p(x | l), which is not a density over x.

    If some genes were not measured, the total of the others is divided by their share of an average cell. A softmax
    does not use this share, but theirs in the cell itself: the means of the measured genes sum to the observed total.
    """

    given: ClassVar[str] = "l"

    def build(self, dims):
        self.register_buffer("profile", dims.average(), persistent=False)

    def forward(self, cells):
        return cells.library if cells.measured is None else cells.whole_size(self.profile)


class SizeFactor(Size):
    """l_n read from a column: spike-ins, or the total over genes that are not modelled. The evidence is p(x).

    A column that is proportional to the total of these very counts is an observed size: p(x | l). The size is that of
    all genes of the model, whichever were measured.
    """

    def forward(self, cells):
        if cells.size_factor is None:
            raise ValueError(f"no size factor was read: name its column, {field('size_factor')}")
        return cells.size_factor.unsqueeze(-1)


class UnitSize(Size):
    """l_n = 1, for counts without a common size, such as objects in images. The evidence is p(x).

    It needs a link under which the means of a cell may have any sum: ``NB(link=Exponential())``.
    """

    def forward(self, cells):
        return torch.ones(len(cells), 1, dtype=cells.dtype, device=cells.device)


class LatentSize(Size):
    """l_n ~ LogNormal(m_b, s_b): mean and standard deviation of log totals in batch b, or in all cells if b is unknown.

    The evidence is p(x). The size is that of all genes of the model, whichever were measured.

    log_mean, log_sd   m and s: one number, or one for each batch in the order of its levels; None takes those of the
                       cells that the model is fitted to
    """

    log_mean: float | tuple[float, ...] | None = None
    log_sd: float | tuple[float, ...] | None = None

    def build(self, dims):
        moments = torch.tensor([[0.0, 1.0]]) if dims.log_size is None else dims.log_size
        self.register_buffer("m", self._or("log_mean", moments[:, 0].clone()))
        self.register_buffer("s", self._or("log_sd", moments[:, 1].clamp(min=1e-4).sqrt()))
        if not (self.m.isfinite() & (self.s > 0)).all() and (self.log_mean, self.log_sd) != (None, None):
            raise ValueError(f"{self!r}: log_mean must be finite and log_sd positive")

    def _or(self, name: str, of_cells: Tensor) -> Tensor:
        """The numbers that were given, or those of the cells [b]."""
        given = getattr(self, name)
        if given is None:
            return of_cells
        numbers = torch.as_tensor(given, dtype=of_cells.dtype).reshape(-1)
        if len(numbers) not in (1, len(of_cells)):
            raise ValueError(f"LatentSize: {name} has {len(numbers)} numbers for {len(of_cells)} batches")
        return numbers.expand(len(of_cells)).clone()

    def forward(self, cells):
        b = read(cells, "batch").unsqueeze(-1)
        spread = (self.s.square().mean() + self.m.var(correction=0)).sqrt()
        m = torch.where(b >= 0, self.m[b.clamp(min=0)], self.m.mean())
        s = torch.where(b >= 0, self.s[b.clamp(min=0)], spread)
        return pyro.sample("l", dist.LogNormal(m, s).to_event(1))
