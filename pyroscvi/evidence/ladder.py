"""The ladder: for every cell, the cheapest estimator that can be trusted.

    screen    importance sampling from the guide, widened and with Student-t tails
    adapt     from a proposal that has moved to where its own weights are large
    refine    the same, started at the mode or modes instead of at the guide's mean, and with ten times the draws
    anneal    from that proposal in small steps to the posterior

A cell stays on the first rung where the tail of its weights is light enough for an estimate and its error to mean
something (k-hat), and where that error is small. The logarithm of an average is too low by half the squared error: by
0.005 nats with the tolerance at 0.1. The screen has stricter limits, because the k-hat of a narrow guide misses what
the guide has never drawn. Where discrete latents are summed out there is no screen, because a k-hat does not detect a
mode that the guide has missed. With 20 draws or fewer there is only the screen, because they have no k-hat. The row of
a cell in a table comes from the rung that it stayed on.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from pyroscvi.evidence.adaptive import Adaptive
from pyroscvi.evidence.annealed import Annealed
from pyroscvi.evidence.estimator import Estimator, Importance, Result, Target, from_draws
from pyroscvi.evidence.importance import MAX_K_HAT, NO_K_HAT, Estimate
from pyroscvi.evidence.proposals import Proposal, StudentT, components
from pyroscvi.evidence.refined import Refined

__all__ = ["Ladder"]

ADAPT, REFINE, ANNEAL = 1, 2, 3  # purposes of streams
SCREEN_K_HAT = 0.5  # below it weights have a variance: the limit on the first rung


class Ladder(Estimator):
    """Screen, adapt, refine, anneal: each rung estimates the cells that the rung before could not be trusted with.

    tolerance  standard error in nats below which a cell is done; on the first rung half of it
    more       how many times ``particles`` the third rung draws
    """

    closed_forms: ClassVar[bool] = True

    tolerance: float = 0.1
    more: int = 10
    screen: Proposal = StudentT()
    adapt: Proposal = Adaptive()
    refine: Proposal = Adaptive(start=Refined())
    anneal: Annealed = Annealed()

    def forward(self, target, particles=1000):
        if particles <= NO_K_HAT:
            return Importance(self.screen)(target, particles)
        screened = len(components(target.joint)) == 1
        result = Importance(self.screen if screened else self.adapt)(target, particles)
        if screened:
            trusted = self.trusted(result.estimate, screened=True)
            result = climbed(result, trusted, target, ADAPT, lambda rest: Importance(self.adapt)(rest, particles))
        trusted = self.trusted(result.estimate)
        return climbed(result, trusted, target, REFINE, lambda rest: self.refined(rest, self.more * particles))

    def refined(self, target: Target, particles: int) -> Result:
        """The last two rungs, which share a proposal."""
        draws = self.refine(target.q, target.joint)
        result = from_draws(draws, target, particles, "refined")
        rest = (~self.trusted(result.estimate)).nonzero().squeeze(-1)
        if not len(rest):
            return result
        annealed = self.anneal.from_draws(draws.take(rest), target.take(rest, ANNEAL))
        # There are few chains: where draws are not misleading but too few, their error may still be the smaller one.
        misleading = ~(result.estimate.k_hat[rest] < MAX_K_HAT)
        better = misleading | (annealed.estimate.monte_carlo_se < result.estimate.monte_carlo_se[rest])
        return replaced(result, rest[better], annealed, better)

    def trusted(self, estimate: Estimate, screened: bool = False) -> Tensor:
        """The cells whose estimates can be trusted [n]."""
        k_hat, error = (SCREEN_K_HAT, self.tolerance / 2) if screened else (MAX_K_HAT, self.tolerance)
        return (estimate.k_hat < k_hat) & (estimate.monte_carlo_se < error)


def climbed(result: Result, trusted: Tensor, target: Target, purpose: int, rung: Callable[[Target], Result]) -> Result:
    """The result for all cells, with those that are not trusted estimated by another rung."""
    rest = (~trusted).nonzero().squeeze(-1)
    if not len(rest):
        return result
    return replaced(result, rest, rung(target.take(rest, purpose)), torch.ones_like(rest, dtype=torch.bool))


def replaced(below: Result, index: Tensor, above: Result, chosen: Tensor) -> Result:
    """The result of the lower rung, with the chosen cells of the higher rung in place of the cells at ``index``."""
    values = [old.index_copy(0, index, new[chosen]) for old, new in zip(below.estimate, above.estimate, strict=True)]
    method = below.method.copy()
    method[index.cpu().numpy()] = above.method[chosen.cpu().numpy()]
    upper = None
    if below.upper is not None and above.upper is not None:
        upper = below.upper.index_copy(0, index, above.upper[chosen])
    return Result(Estimate(*values), method, upper)
