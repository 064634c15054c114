"""Conditions: the known properties of a cell that the generative process depends on, as a design row d_n.

>>> OneHot("donor") + Embedding("perturbation", width=16) + Continuous()
OneHot(field='donor') + Embedding(field='perturbation', width=16) + Continuous()
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pyroscvi.data.cells import Cells, Dims
from pyroscvi.handlers import read, read_covariate
from pyroscvi.part import Part
from pyroscvi.ranges import PositiveInt

__all__ = ["Condition", "Continuous", "Embedding", "Nothing", "OneHot", "Together"]


def indicators(cells: Cells, field: str, levels: int) -> Tensor:
    """Ones at the levels of cells in a categorical field [n, levels], zeros elsewhere; 1 / levels where unknown."""
    code = read(cells, field)
    row = one_hot(code.clamp(min=0), levels).to(cells.dtype)
    return torch.where((code >= 0).unsqueeze(-1), row, 1 / levels)


def crossed(cells: Cells, levels: Mapping[str, int]) -> Tensor:
    """``indicators`` of every combination of levels of several fields {field: levels} [n, combinations]."""
    rows = torch.ones(len(cells), 1, dtype=cells.dtype, device=cells.device)
    for field, count in levels.items():
        rows = (rows.unsqueeze(-1) * indicators(cells, field, count).unsqueeze(-2)).flatten(-2)
    return rows


class Condition(Part):
    """A slot from cells to design rows d [n, width]; ``+`` concatenates the rows of two conditions."""

    def build(self, dims: Dims) -> None:
        self.width = 0

    def forward(self, cells: Cells) -> Tensor:
        return torch.zeros(len(cells), 0, dtype=cells.dtype, device=cells.device)

    def __add__(self, other: "Condition") -> "Together":
        return Together((*self.parts(), *other.parts()))

    def parts(self) -> tuple["Condition", ...]:
        return (self,)


class Nothing(Condition):
    """No condition."""


class OneHot(Condition):
    """One indicator column for each level of a categorical field; 1 / levels in every column where it is unknown.

    A field with a single level has no column.
    """

    field: str = "batch"

    def build(self, dims):
        self.levels = dims.count(self.field)
        self.width = self.levels if self.levels > 1 else 0

    def forward(self, cells):
        return indicators(cells, self.field, self.levels) if self.width else super().forward(cells)


class Embedding(Condition):
    """A learned vector for every level of a categorical field; the mean of these vectors where the level is unknown."""

    field: str = "batch"
    width: PositiveInt = 8

    def build(self, dims):
        self.table = nn.Embedding(dims.count(self.field), self.width)

    def forward(self, cells):
        code = read(cells, self.field)
        return torch.where((code >= 0).unsqueeze(-1), self.table(code.clamp(min=0)), self.table.weight.mean(0))


class Continuous(Condition):
    """The continuous covariates, without change; ``Fields`` standardised them when it read the data."""

    def build(self, dims):
        self.width = dims.covariates

    def forward(self, cells):
        if not cells.covariate_names:
            return super().forward(cells)
        return torch.stack([read_covariate(cells, name) for name in cells.covariate_names], -1)


class Together(Condition):
    """Several conditions with their rows concatenated: (d_1, d_2, ...)."""

    conditions: tuple[Condition, ...] = ()

    def build(self, dims):
        members = [condition.sized(dims) for condition in self.conditions]
        self.members = nn.ModuleList(members)
        self.width = sum(member.width for member in members)

    def forward(self, cells):
        rows = [member(cells) for member in self.members]
        shape = torch.broadcast_shapes(*(row.shape[:-1] for row in rows))
        return torch.cat([row.expand(*shape, row.shape[-1]) for row in rows], -1)

    def parts(self):
        return self.conditions

    def __repr__(self):
        return " + ".join(map(repr, self.conditions))
