"""The ladder: every cell is looked at by the cheapest estimator that can be trusted with it.

    screen    importance sampling from the guide, widened and with Student-t tails
    adapt     from a proposal that has moved to where its own weights say the mass is
    refine    the same, begun at the mode or modes instead of where the guide points, and with ten times the draws
    anneal    from that proposal in small steps to the posterior

A cell stays on the first rung where its weights have a tail that is light enough for an estimate and its error to
mean something (k-hat), and where that error is small. Half the squared error is what the logarithm of an average is
too low by: with the tolerance at 0.1 nats, 0.005. The screen is believed less, for what a guide that is too narrow has
never drawn is missing from its k-hat, too. Where discrete latents are summed there is no screen, for a k-hat does not
see the mode that a guide has missed; and with 20 draws or fewer there is nothing but the screen, for they have no
k-hat. What a table says of a cell is said by the rung that it has stayed on.
"""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from pyroscvi.evidence.adaptive import Adaptive
from pyroscvi.evidence.annealed import Annealed
from pyroscvi.evidence.estimator import Estimator, Found, Importance, Target, sampled
from pyroscvi.evidence.importance import Estimate
from pyroscvi.evidence.pareto import HEAVY
from pyroscvi.evidence.proposals import Proposal, StudentT, components
from pyroscvi.evidence.refined import Refined

__all__ = ["Ladder"]

ADAPT, REFINE, ANNEAL = 1, 2, 3  # purposes of streams
LIGHT = 0.5  # a k-hat below which weights have a variance
FEW = 20  # draws, of which no k-hat can be said


class Ladder(Estimator):
    """Screen, adapt, refine, anneal: each the cells that the rung before could not vouch for.

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
        if particles <= FEW:
            return sampled(self.screen(target.q, target.log_joint), target, particles, self.screen.method)
        screened = len(components(target.log_joint)) == 1
        first = self.screen if screened else self.adapt
        found = sampled(first(target.q, target.log_joint), target, particles, first.method)
        if screened:
            sure = self.settled(found.estimate, screened=True)
            found = improved(found, sure, target, ADAPT, lambda rest: Importance(self.adapt)(rest, particles))
        sure = self.settled(found.estimate)
        return improved(found, sure, target, REFINE, lambda rest: self.refined(rest, self.more * particles))

    def refined(self, target: Target, particles: int) -> Found:
        """The last two rungs, which have a proposal in common."""
        draws = self.refine(target.q, target.log_joint)
        found = sampled(draws, target, particles, "refined")
        rest = (~self.settled(found.estimate)).nonzero().squeeze(-1)
        if not len(rest):
            return found
        annealed = self.anneal.onwards(draws.take(rest), target.take(rest, ANNEAL))
        return placed(found, rest, annealed, self.better(annealed.estimate, found.estimate, rest))

    def settled(self, found: Estimate, screened: bool = False) -> Tensor:
        """Whose estimates can be trusted [n]."""
        heavy, error = (LIGHT, self.tolerance / 2) if screened else (HEAVY, self.tolerance)
        return (found.k_hat < heavy) & (found.monte_carlo_se < error)

    def better(self, annealed: Estimate, refined: Estimate, index: Tensor) -> Tensor:
        """Chains are few: where draws are merely too few, and not misleading, they may still say more [m]."""
        misled = ~(refined.k_hat[index] < HEAVY)
        return misled | (annealed.monte_carlo_se < refined.monte_carlo_se[index])


def improved(found: Found, sure: Tensor, target: Target, purpose: int, rung: Callable[[Target], Found]) -> Found:
    """What is known of all cells, when another rung has looked at those that nobody is sure of."""
    rest = (~sure).nonzero().squeeze(-1)
    return placed(found, rest, rung(target.take(rest, purpose))) if len(rest) else found


def placed(below: Found, index: Tensor, above: Found, where: Tensor | None = None) -> Found:
    """What the rung above has found, in the place of what was known of these cells."""
    keep = slice(None) if where is None else where
    index = index[keep]
    values = [old.index_copy(0, index, new[keep]) for old, new in zip(below.estimate, above.estimate, strict=True)]
    method = below.method.copy()
    method[index.cpu().numpy()] = above.method[keep if where is None else where.cpu().numpy()]
    upper = None
    if below.upper is not None and above.upper is not None:
        upper = below.upper.index_copy(0, index, above.upper[keep])
    return Found(Estimate(*values), method, upper)
