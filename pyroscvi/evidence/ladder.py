"""The ladder: for every cell, the cheapest estimator that can be trusted, and as few draws as its error allows.

    adapt      from a mixture of proposals that has moved to where its own weights are large
               the same with more draws in each round
    refine     the same, started at the mode or modes instead of at the guide's mean
    anneal     from that proposal in small steps to the posterior

A cell stays on the first rung where the tail of its weights is light enough for an estimate and its error to mean
something (k-hat), and where that error is within the tolerance. The logarithm of an average is too low by half the
squared error: by 0.001 nats with the tolerance at 0.05. With 20 draws or fewer there is only importance sampling from
the guide, because so few have no k-hat. The row of a cell in a table comes from the rung that it stayed on.
"""

from typing import ClassVar

import torch
from torch import Tensor

from pyroscvi.evidence.adaptive import Adaptive
from pyroscvi.evidence.annealed import Annealed
from pyroscvi.evidence.estimator import Estimator, Importance, Result, from_draws
from pyroscvi.evidence.importance import MAX_K_HAT, NO_K_HAT, Estimate
from pyroscvi.evidence.proposals import Proposal
from pyroscvi.evidence.refined import Refined

MAX_DRAWS = 10_000
MORE, REFINE, ANNEAL = 1, 2, 3  # purposes of streams


class Ladder(Estimator):
    """Adapt, adapt with more draws, refine, anneal: each rung estimates the cells that fail the test of the one before.

    Draws of a cell end where its standard error is within the tolerance, and with ``particles`` at the latest.

    tolerance  standard error in nats at which a cell is done
    """

    closed_forms: ClassVar[bool] = True

    tolerance: float = 0.05
    adapt: Proposal = Adaptive()
    more: Proposal = Adaptive(draws=512)
    refine: Proposal = Adaptive(draws=512, start=Refined())
    anneal: Annealed = Annealed()

    def forward(self, target, particles=MAX_DRAWS):
        if particles <= NO_K_HAT:
            return Importance()(target, particles)
        draws = Importance(self.adapt).draws(target)
        result = from_draws(draws, target, particles, self.adapt.method, self.tolerance)
        rest = self.open(result.estimate)
        for proposal, name, purpose in (self.more, "adaptive", MORE), (self.refine, "refined", REFINE):
            if not len(rest):
                return result
            before, some = rest, target.take(rest, purpose)
            draws = proposal(some.q, some.joint)
            result = better(result, rest, from_draws(draws, some, particles, name, self.tolerance))
            rest = self.open(result.estimate)
        if len(rest):
            draws = draws.take(torch.searchsorted(before, rest))
            result = better(result, rest, self.anneal.from_draws(draws, target.take(rest, ANNEAL)))
        return result

    def open(self, estimate: Estimate) -> Tensor:
        """The cells whose estimates cannot be trusted."""
        trusted = (estimate.k_hat < MAX_K_HAT) & (estimate.monte_carlo_se <= self.tolerance)
        return (~trusted).nonzero().squeeze(-1)


def better(below: Result, rest: Tensor, above: Result) -> Result:
    """The result of the lower rung, with that of the higher rung for those cells ``rest`` where it is the better one.

    Where draws are not misleading but too few, the error of the lower rung may be the smaller one.
    """
    misleading = ~(below.estimate.k_hat[rest] < MAX_K_HAT)
    chosen = misleading | (above.estimate.monte_carlo_se < below.estimate.monte_carlo_se[rest])
    index = rest[chosen]
    values = [old.index_copy(0, index, new[chosen]) for old, new in zip(below.estimate, above.estimate, strict=True)]
    method = below.method.copy()
    method[index.cpu().numpy()] = above.method[chosen.cpu().numpy()]
    upper = None
    if below.upper is not None and above.upper is not None:
        upper = below.upper.index_copy(0, index, above.upper[chosen])
    return Result(Estimate(*values), method, upper)
