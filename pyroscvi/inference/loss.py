"""The loss of a minibatch, as one module."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import cast

import pyro
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyroscvi.data.cells import Cells
from pyroscvi.handlers import temper
from pyroscvi.inference.elbo import Sites, bound_of, joint
from pyroscvi.part import Part, parts_of
from pyroscvi.program import Guide, Model


class KLObjective:
    """An objective that changes what the KL divergence costs in a step of training.

    It is called with the sample sites p of the model and q of the guide, from the same draw as the ELBO and under the
    same ``temper(beta)``, and with beta, the KL weight; it returns [n], in nats. So it can cancel a KL exactly.
    """

    def __call__(self, p: Sites, q: Sites, beta: float | Tensor) -> Tensor:
        raise NotImplementedError


class Reweighting:
    """An objective that changes what the probability of the counts counts for: its handler runs around the model."""

    def handler(self) -> Messenger:
        raise NotImplementedError


Objective = Callable[[Model, Guide, Cells], Tensor] | KLObjective | Reweighting


class Loss(nn.Module):
    """Minus the ELBO under ``temper(beta)`` and the log prior of parameters, plus the objectives, in nats per cell.

    trained   everything with parameters: "model", "guide" and the "objectives" that are modules
    total     number of cells to fit to
    """

    def __init__(self, trained: nn.ModuleDict, objectives: Sequence[Objective], total: int):
        super().__init__()
        self.trained, self.objectives, self.total = trained, objectives, total
        self.parts = [part for part in parts_of(trained["model"]) if type(part).log_prior is not Part.log_prior]

    def forward(self, cells: Cells, beta: float, weight: float = 1.0) -> Tensor:
        """The loss [] of one draw for each of these cells.

        weight   of these cells, relative to an average shard of the minibatch; latents that cells share count once,
                 whatever it is
        """
        model, guide = cast(Model, self.trained["model"]), cast(Guide, self.trained["guide"])
        with pyro.validation_enabled(False), ExitStack() as around:
            around.enter_context(temper(beta))
            for objective in self.objectives:
                if isinstance(objective, Reweighting):
                    around.enter_context(objective.handler())
            p, q = joint(model, guide, cells)
            elbo = bound_of(p, q, cells)
            of_kl = [o(p, q, beta) for o in self.objectives if isinstance(o, KLObjective)]
        others = [o(model, guide, cells) for o in self.objectives if not isinstance(o, KLObjective | Reweighting)]
        shared = elbo.shared + sum(part.log_prior() for part in self.parts)
        loss = -(elbo.cells.sum() * weight + shared) / self.total
        return loss + sum(value.mean() * weight for value in [*of_kl, *others])
