"""Estimators: from the joint density of a cell, and the guide's Gaussian over its latents, to the evidence of the cell.

    >>> Importance()
    Importance()

Each makes weights whose mean is the evidence, E w = p(x). It can also compute the weight w* of a draw of the posterior
under the same settings. For cells that a model has simulated such a draw is known, and the truth lies between two
averages:

    E log 1/S sum_s w_s  <=  log p(x)  <=  E log 1/S (w* + sum_{s > 1} w_s)

The second is an upper bound for the same reason that the first is a lower one. The draws of importance sampling and the
one draw of the posterior, shuffled, have the density q(u_1) ... q(u_S) sum_s w_s / (S p(x)), and a divergence between
densities is not negative. ``certificate`` measures the gap between the two bounds.

References
    Grosse, R. B., Ancha, S. & Roy, D. M. (2016) Measuring the reliability of MCMC inference with bidirectional Monte
    Carlo. NeurIPS. arXiv:1606.02275
    Sobolev, A. & Vetrov, D. (2019) Importance weighted hierarchical variational inference. NeurIPS. arXiv:1905.03290
"""

import copy
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from pyroscvi.evidence.importance import MAX_K_HAT, Estimate, Weights
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.proposals import Draws, Elliptical, GuideDraws, LogJoint, Proposal, StudentT
from pyroscvi.evidence.streams import Streams
from pyroscvi.part import Part
from pyroscvi.parts.priors import StandardNormal

MARGIN = 1.1  # of the draws that the last round asks for: few standard errors are then too large, and need an extension
EXTENSIONS = 8  # times at most that draws are added
MIN_DRAWS, STEP = 128, 64  # draws of a cell at least, for a k-hat; numbers of draws are multiples of the second


D = TypeVar("D", bound=LogJoint)


class Target(NamedTuple, Generic[D]):
    """The joint density of every cell of a minibatch, and where to start integrating it over the cell's latents.

    joint    log p(x_n, u_n) [s, n] of latents u [s, n, d]: a ``Joint``, or any function
    q        the guide's Gaussian over these latents
    streams  the random numbers of the cells
    chunk    how many draws fit into memory at once; None: all
    truth    a draw of every cell's posterior [n, d], known where the cells were simulated
    """

    joint: D
    q: Elliptical
    streams: Streams
    chunk: int | None = None
    truth: Tensor | None = None

    def take(self, index: Tensor, purpose: int) -> "Target[D]":
        """Some of the cells, with unused random numbers."""
        joint: Any = self.joint
        truth = None if self.truth is None else self.truth[index]
        chunk = self.chunk and self.chunk * len(self.q.loc) // max(len(index), 1)  # fewer cells, more draws of each
        return Target(joint.take(index), self.q.take(index), self.streams.anew(purpose, index), chunk, truth)


class Result(NamedTuple):
    """What an estimator returns for every cell.

    estimate  the evidence and its diagnostics, each [n]
    method    the name of the method that estimated it   [n]
    upper     the upper bound, where the target has a truth   [n]
    """

    estimate: Estimate
    method: np.ndarray
    upper: Tensor | Any = None


class Estimator(Part):
    """A slot that maps a target, and the number of draws that importance sampling makes of a cell, to its evidence.

    closed_forms  if a page has a closed form, it is used instead of an estimate
    """

    closed_forms: ClassVar[bool] = False

    def forward(self, target: Target, particles: int = 1000) -> Result:
        raise NotImplementedError

    @torch.no_grad()
    def exact(self, joint: Joint) -> Tensor | None:
        """log p(x_n) [n] where it needs no estimate: every latent is discrete, or a closed form is used; or None."""
        model: Any = joint.model
        if joint.size == 0:
            return joint(joint.origin())[0]
        # A closed form holds for the page as it is written, so under no handler, and for a Gaussian z.
        has_form = hasattr(model, "log_evidence") and isinstance(model.prior, StandardNormal) and not am_i_wrapped()
        if has_form and self.closed_forms and joint.cells.measured is None:
            return copy.deepcopy(model).double().log_evidence(joint.cells.x.double())
        return None


class Importance(Estimator):
    """The mean of p(x, u) / q(u) over independent draws of a proposal."""

    proposal: Proposal = StudentT()

    def forward(self, target, particles=1000):
        return from_draws(self.draws(target), target, particles, self.proposal.method)

    def draws(self, target: Target) -> Draws:
        """The proposal of every cell."""
        return proposed(self.proposal, target)


def proposed(proposal: Proposal, target: Target) -> Draws:
    """The proposal of every cell; where there is nothing to integrate over, no proposal is adapted."""
    return (proposal if target.q.loc.shape[-1] else GuideDraws())(target.q, target.joint)


def from_draws(draws: Draws, target: Target, particles: int, method: str, tolerance: float = 0.0) -> Result:
    """Importance sampling with this proposal: ``particles`` draws, or as few as give this standard error.

    How many a cell needs follows from the weights that the proposal was adapted with (``Draws.spread``), and not from
    those of the estimate: to stop when they happen to look even would make the mean too low. Only where the error is
    still too large are more added.
    """
    weights = Weights(target.joint, draws, target.streams, target.chunk)
    spread = getattr(draws, "spread", None)
    counts = torch.full_like(weights.counts, particles)
    if tolerance and spread is not None:
        counts = needed(MARGIN * spread, tolerance, particles)
    for _ in range(EXTENSIONS):
        weights.extend(counts)
        estimate = weights.estimate()
        short = (estimate.monte_carlo_se > tolerance) & (estimate.k_hat < MAX_K_HAT) & (counts < particles)
        if not short.any():
            break
        more = needed(counts * estimate.monte_carlo_se.square(), tolerance, particles)
        counts = torch.where(short, more.maximum(counts + STEP).clamp(max=particles), counts)

    upper = None
    if target.truth is not None:
        with torch.no_grad():
            known = (target.joint(target.truth[None]) - draws.log_prob(target.truth[None]))[0]
        upper = upper_bound(weights.log_w, known, weights.counts)
    return Result(estimate, np.full(len(counts), method, dtype=object), upper)


def upper_bound(log_w: Tensor, known: Tensor, counts: Tensor) -> Tensor:
    """The bound [n] from log weights [s, n], the first of them replaced by that of a posterior draw [n]."""
    return torch.cat([known[None].to(log_w), log_w[1:]]).logsumexp(0) - counts.to(log_w).log()


def needed(spread: Tensor, tolerance: float, particles: int) -> Tensor:
    """Draws after which the standard error is within the tolerance [n]: multiples of 64, no more than ``particles``."""
    draws = (spread / tolerance**2).nan_to_num(particles).clamp(MIN_DRAWS, particles)
    return (draws / STEP).ceil().mul(STEP).clamp(max=particles).long().cpu()
