"""What a model must know about the data before it can own parameters: sizes, and moments of the cells."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pyroscvi.advice import either
from pyroscvi.data.panels import profile_of, shares
from pyroscvi.data.stored import Stored

if TYPE_CHECKING:
    from pyroscvi.data.cells import Cells, Counts


@dataclass(frozen=True)
class Dims:
    """What a model must know about the data before it can own parameters.

    genes       number of genes
    levels      number of levels of each categorical field: {"batch": 2}
    covariates  number of continuous covariates
    proteins    number of surface proteins
    embedding   numbers of a cell that another model computed
    real        whether the values of genes are not counts
    mean        mean value of every gene, where these are not counts                          [g]
    profile     share of every gene in all counts, after adding one count to every gene       [g]
    log_size    mean and variance of the log total count, by batch (one row without batches)   [b, 2]
    names       names of the genes                                                            [g]

    Where some genes were not measured, a cell counts for the others only (``panels.profile_of``), and its total is
    divided by their share.
    """

    genes: int
    levels: Mapping[str, int] = field(default_factory=dict)
    covariates: int = 0
    proteins: int = 0
    embedding: int = 0
    real: bool = False
    mean: Tensor | None = field(default=None, repr=False)
    profile: Tensor | None = field(default=None, repr=False)
    log_size: Tensor | None = field(default=None, repr=False)
    names: tuple[str, ...] | None = field(default=None, repr=False)

    def count(self, name: str) -> int:
        """Number of levels of a categorical field; 1 for a ``batch`` or ``label`` that was not read."""
        if name not in self.levels and name not in ("batch", "label"):
            named = either("name it in Fields(...)", "name it with --batch, --label or --category")
            raise KeyError(f"no categorical field {name!r} was read; there are {sorted(self.levels)}: {named}")
        return self.levels.get(name, 1)

    def average(self) -> Tensor:
        """The profile, or equal shares if it is not known [g]."""
        return torch.full((self.genes,), 1 / self.genes) if self.profile is None else self.profile.clone()


def totals(counts: "Counts", axis: int) -> Tensor:
    """Sums over an axis, in double precision: float32 is exact up to 2^24 only."""
    if isinstance(counts, Stored):
        return torch.as_tensor(counts.totals if axis == 1 else counts.genes)
    if isinstance(counts, Tensor):
        counts = counts.cpu() if counts.device.type == "mps" else counts  # MPS has no double precision
        return counts.sum(axis, dtype=torch.float64)
    # Not ``counts.sum(axis, dtype=...)``: scipy adds in float32 and converts afterwards.
    rows = counts if axis == 1 else counts.T
    return torch.as_tensor(rows @ np.ones(rows.shape[1]))


def survey(cells: "Cells") -> Dims:
    """Sizes and moments of a data set."""
    levels = {name: len(names) for name, names in cells.levels.items()}
    per_gene, total = totals(cells.counts, 0).cpu(), totals(cells.counts, 1).cpu()
    profile = (per_gene + 1) / (per_gene + 1).sum()
    log_total = torch.zeros(len(cells)) if cells.real else total.clamp(min=1).log()
    if cells.panels is not None and cells.panel is not None:
        panels, panel = cells.panels.cpu(), cells.panel.cpu()
        profile = profile_of(per_gene, panels, torch.zeros(len(panels), dtype=total.dtype).index_add(0, panel, total))
        log_total = log_total - shares(panels, profile)[panel].log()
    batch = torch.zeros(len(cells), dtype=torch.long) if cells.batch is None else cells.batch.cpu()
    by_batch = [log_total[batch == level] for level in range(max(levels.get("batch", 1), 1))]
    by_batch = [own if len(own) else log_total for own in by_batch]
    return Dims(
        genes=cells.counts.shape[1],
        levels=levels,
        covariates=0 if cells.covariates is None else cells.covariates.shape[-1],
        embedding=0 if cells.embedding is None else cells.embedding.shape[-1],
        proteins=0 if cells.proteins is None else cells.proteins.shape[-1],
        real=cells.real,
        names=cells.genes,
        mean=(per_gene / len(cells)).float() if cells.real else None,
        profile=None if cells.real else profile.float(),
        log_size=torch.stack([torch.stack([own.mean(), own.var(correction=0)]) for own in by_batch]).float(),
    )
