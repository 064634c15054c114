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
from collections.abc import Callable
from math import log
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from pyroscvi.evidence.importance import Estimate, estimate, log_weights
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.proposals import Draws, Elliptical, GuideDraws, LogJoint, Proposal, StudentT
from pyroscvi.evidence.streams import Streams
from pyroscvi.part import Part
from pyroscvi.parts.priors import StandardNormal

__all__ = ["Estimator", "Importance", "Result", "Target", "from_draws", "from_weights"]


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
        return Target(joint.take(index), self.q.take(index), self.streams.anew(purpose, index), self.chunk, truth)


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
        if has_form and self.closed_forms:
            return copy.deepcopy(model).double().log_evidence(joint.cells.x.double())
        return None


class Importance(Estimator):
    """The mean of p(x, u) / q(u) over independent draws of a proposal."""

    proposal: Proposal = StudentT()

    def forward(self, target, particles=1000):
        return from_draws(self.draws(target), target, particles, self.proposal.method)

    def draws(self, target: Target) -> Draws:
        """The proposal of every cell; where there is nothing to integrate over, no proposal is adapted."""
        return (self.proposal if target.q.loc.shape[-1] else GuideDraws())(target.q, target.joint)


def from_draws(draws: Draws, target: Target, particles: int, method: str) -> Result:
    """Importance sampling with this proposal."""
    log_w = log_weights(target.joint, draws, target.streams, particles, target.chunk)

    @torch.no_grad()
    def log_weight(u: Tensor) -> Tensor:
        return (target.joint(u[None]) - draws.log_prob(u[None]))[0]

    return from_weights(log_w, log_weight, target, method)


def from_weights(log_w: Tensor, log_weight: Callable[[Tensor], Tensor], target: Target, method: str) -> Result:
    """The estimate from log weights [s, n]; ``log_weight`` is that of a posterior draw [n, d], for the upper bound."""
    upper = None
    if target.truth is not None:
        upper = torch.cat([log_weight(target.truth)[None], log_w[1:]]).logsumexp(0) - log(len(log_w))
    return Result(estimate(log_w), np.full(log_w.shape[1], method, dtype=object), upper)
