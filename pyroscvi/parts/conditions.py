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

__all__ = [
    "Condition", "Continuous", "Dose", "Embedding", "Interaction", "Nothing", "OneHot", "Perturbation", "Together",
]  # fmt: skip


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


class Perturbation(Condition):
    """One indicator column for each level of a categorical field, and zeros for cells of the level ``control``.

    Without a control every level has its column. 1 / levels in every column where the level is unknown. Columns are in
    the order of the levels, so the control has one too. It is always zero: effects in it keep their prior.
    """

    field: str = "label"
    control: str | None = None

    def build(self, dims):
        self.width = dims.count(self.field)

    def forward(self, cells):
        rows = indicators(cells, self.field, self.width)
        if self.control is None:
            return rows
        names = cells.levels.get(self.field, ())
        if self.control not in names:
            raise ValueError(f"{self!r}: {self.field} has no level {self.control!r}; there are {', '.join(names)}")
        treated = torch.arange(self.width, device=rows.device) != names.index(self.control)
        return rows * treated.to(rows)


class Dose(Condition):
    """The response to a dose x, x^h / (k^h + x^h): 0 without a dose, rising smoothly to 1 [Hill, 1910].

    dose   a covariate, 0 or more; k, the dose of half the response, and h, the steepness, are learnt
    drug   a categorical field: each of its levels has k, h and a column of its own
    """

    dose: str = "dose"
    drug: str | None = None

    def build(self, dims):
        self.width = 1 if self.drug is None else dims.count(self.drug)
        self.log_k, self.log_h = nn.Parameter(torch.zeros(self.width)), nn.Parameter(torch.zeros(self.width))
        self.register_buffer("moments", torch.tensor([0.0, 1.0]))  # with which ``Fields`` standardised the dose

    def begin(self, cells):
        if cells.fields is not None:
            self.moments.copy_(torch.tensor(cells.fields.moments[self.dose]))
        x = self.moments[0] + self.moments[1] * cells.covariate(self.dose)
        self.log_k.fill_(float(x[x > 0].log().mean()) if (x > 0).any() else 0.0)

    def single(self):
        return [self.log_k, self.log_h]

    def response(self, x: Tensor) -> Tensor:
        """The response to doses x [..., n], of every drug [..., n, drugs]."""
        logs = x.clamp(min=1e-6).log().unsqueeze(-1)
        return (x > 1e-6).unsqueeze(-1) * torch.sigmoid(self.log_h.exp() * (logs - self.log_k))

    def forward(self, cells):
        response = self.response(self.moments[0] + self.moments[1] * read_covariate(cells, self.dose))
        return response if self.drug is None else response * indicators(cells, self.drug, self.width)


class Interaction(Condition):
    """The products of every column of one condition with every column of another."""

    first: Condition = Perturbation("label")
    second: Condition = Perturbation("batch")

    def build(self, dims):
        self.first, self.second = self.first.sized(dims), self.second.sized(dims)
        self.width = self.first.width * self.second.width

    def forward(self, cells):
        return (self.first(cells).unsqueeze(-1) * self.second(cells).unsqueeze(-2)).flatten(-2)


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
