"""Gene panels: which genes were measured, a row of True and False for each group of cells [p, g].

Genes of a cell are independent given its latents. So a gene that was not measured is left out of their product, and its
count is not set to zero: ``handlers.Measured``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from pyroscvi.data.cells import Cells

MAX_ROUNDS, MIN_CHANGE = 1000, 1e-9  # of the average profile; the second is relative


def panels_of(groups: Sequence[np.ndarray], sizes: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    """Panels [p, g] without repetitions, and the panel of every cell [n]; None if all genes were measured in all cells.

    groups  the genes that were measured in the cells of a group, True or False [g]
    sizes   numbers of cells of the groups, which come one after the other
    """
    panels, code = np.unique(np.stack(groups), axis=0, return_inverse=True)
    if panels.all():
        return None
    return torch.from_numpy(panels), torch.from_numpy(np.repeat(code.reshape(-1), sizes))


def shares(panels: Tensor, profile: Tensor) -> Tensor:
    """The share of the measured genes in a profile [p]; exactly 1 for a panel of all genes."""
    return torch.where(panels.all(1), 1.0, panels.to(profile.dtype) @ profile)


def panels_with(panels: Tensor | None, genes: int) -> Tensor:
    """These panels and the panel of all genes, each once [p, g]."""
    everything = torch.ones(1, genes, dtype=torch.bool)
    return everything if panels is None else torch.cat([everything, panels.cpu()]).unique(dim=0)


def seen(cells: "Cells", panels: Tensor) -> Tensor:
    """True for the cells whose panel is among these panels [n]."""
    if cells.panels is None or cells.panel is None:
        return torch.ones(len(cells), dtype=torch.bool, device=cells.device)
    return (cells.panels.unsqueeze(1) == panels).all(-1).any(-1)[cells.panel]


def profile_of(per_gene: Tensor, panels: Tensor, totals: Tensor) -> Tensor:
    """The average profile of cells of several panels [g]: share of every gene in all counts, had all been measured.

    per_gene  total count of every gene                  [g]
    totals    total count of the cells of every panel    [p]

    It is the maximum likelihood estimate where counts are Poisson with means size * share, after a cell with one count
    of every gene was added: a gene's count, divided by the sizes of the cells in which it was measured; and the size of
    a cell is its total, divided by the share of its genes.
    """
    genes = len(per_gene)
    measured = panels.to(totals.dtype)
    profile = torch.full_like(per_gene, 1 / genes)
    for _ in range(MAX_ROUNDS):
        before = profile
        profile = (per_gene + 1) / (genes + (totals / (measured @ profile)) @ measured)
        profile = profile / profile.sum()
        if ((profile - before).abs() <= MIN_CHANGE * before).all():
            break
    return profile
