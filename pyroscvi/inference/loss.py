"""The loss of a minibatch as one module, whose ``forward`` is all that an engine of training needs to call."""

from collections.abc import Callable, Sequence
from typing import cast

import pyro
from torch import Tensor, nn

from pyroscvi.data.cells import Cells
from pyroscvi.handlers import temper
from pyroscvi.inference.elbo import bound
from pyroscvi.program import Guide, Model

__all__ = ["Loss", "Objective"]

Objective = Callable[[Model, Guide, Cells], Tensor]


class Loss(nn.Module):
    """Minus the ELBO under ``temper(beta)``, and the objectives, per cell of the ``total`` that there are to fit to.

    trained   everything with parameters: "model", "guide" and the "objectives" that are modules
    """

    def __init__(self, trained: nn.ModuleDict, objectives: Sequence[Objective], total: int):
        super().__init__()
        self.trained, self.objectives, self.total = trained, objectives, total

    def forward(self, cells: Cells, beta: float, weight: float = 1.0) -> Tensor:
        """The loss [] of one draw for each of these cells.

        weight   how much a cell of these counts, against one of an average shard of the minibatch; latents that cells
                 share count once, whatever it is
        """
        model, guide = cast(Model, self.trained["model"]), cast(Guide, self.trained["guide"])
        with temper(beta), pyro.validation_enabled(False):
            found = bound(model, guide, cells)
        loss = -(found.cells.sum() * weight + found.shared) / self.total
        for objective in self.objectives:
            loss = loss + objective(model, guide, cells).mean() * weight
        return loss
