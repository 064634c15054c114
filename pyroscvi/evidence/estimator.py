"""Estimators: from the joint density of a cell, and what a guide says of its latents, to the evidence of the cell.

    >>> Importance()
    Importance()

Each makes weights of which the evidence is the mean, E w = p(x), and can say what weight a draw of the posterior would
have had, under the same settings. On cells that a model has generated itself such a draw is known, and the truth lies
between two averages:

    E log 1/S sum_s w_s  <=  log p(x)  <=  E log 1/S (w* + sum_{s > 1} w_s),      w* the weight of the posterior draw

The second is an upper bound for the reason that the first is a lower one: the draws of importance sampling and the one
draw of the posterior, shuffled, have the density q(u_1) ... q(u_S) sum_s w_s / (S p(x)), and a divergence between
densities is not negative. It is what ``certificate`` measures.

References
    Grosse, R. B., Ancha, S. & Roy, D. M. (2016) Measuring the reliability of MCMC inference with bidirectional Monte
    Carlo. NeurIPS. arXiv:1606.02275
    Sobolev, A. & Vetrov, D. (2019) Importance weighted hierarchical variational inference. NeurIPS. arXiv:1905.03290
"""

from collections.abc import Callable
from math import log
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyroscvi.evidence.importance import Estimate, estimate, log_weights
from pyroscvi.evidence.proposals import Draws, Elliptical, LogJoint, Proposal, StudentT
from pyroscvi.evidence.reading import Read
from pyroscvi.evidence.streams import Streams
from pyroscvi.part import Part

__all__ = ["Estimator", "Found", "Importance", "Target", "weighed"]


class Target(NamedTuple):
    """What is to be integrated for every cell of a minibatch.

    log_joint  log p(x_n, u_n) [s, n] of latents u [s, n, d]
    q          what the guide says of them
    streams    the random numbers of the cells
    chunk      draws at once that there is room for; None: all
    truth      a draw of every cell's posterior [n, d], where there is one
    """

    log_joint: LogJoint
    q: Elliptical
    streams: Streams
    chunk: int | None = None
    truth: Tensor | None = None

    @classmethod
    def of(cls, read: Read, chunk: int | None = None, truth: Tensor | None = None) -> "Target":
        """A minibatch that was read as the guide has it; ``truth`` is that of the whole data set."""
        assert isinstance(read.draws, Elliptical)
        here = None if truth is None else truth[read.joint.cells.index].to(read.draws.loc)
        return cls(read.joint, read.draws, read.streams, chunk or read.chunk, here)

    def take(self, index: Tensor, purpose: int) -> "Target":
        """Some of the cells, with random numbers that have not been used."""
        log_joint: Any = self.log_joint
        truth = None if self.truth is None else self.truth[index]
        streams = self.streams.anew(purpose, index)
        return Target(log_joint.take(index), self.q.take(index), streams, self.chunk, truth)


class Found(NamedTuple):
    """What an estimator says of every cell.

    estimate  the evidence, and what is known of its error, each [n]
    method    the name of what estimated it   [n]
    upper     the upper end of the sandwich, where the target has a truth   [n]
    """

    estimate: Estimate
    method: np.ndarray
    upper: Tensor | Any = None


class Estimator(Part):
    """A slot that maps a target, and the number of draws that importance sampling makes of a cell, to its evidence.

    closed_forms  where a page has a closed form, it is used in the place of an estimate
    """

    closed_forms: ClassVar[bool] = False

    def forward(self, target: Target, particles: int = 1000) -> Found:
        raise NotImplementedError


class Importance(Estimator):
    """The mean of p(x, u) / q(u) over independent draws of a proposal."""

    proposal: Proposal = StudentT()

    def forward(self, target, particles=1000):
        draws = self.proposal(target.q, target.log_joint)
        return sampled(draws, target, particles, self.proposal.method)


def sampled(draws: Draws, target: Target, particles: int, method: str) -> Found:
    """Importance sampling from draws that are there already."""
    log_w = log_weights(target.log_joint, draws, target.streams, particles, target.chunk)

    @torch.no_grad()
    def of_truth(u: Tensor) -> Tensor:
        return (target.log_joint(u[None]) - draws.log_prob(u[None]))[0]

    return weighed(log_w, of_truth, target, method)


def weighed(log_w: Tensor, of_truth: Callable[[Tensor], Tensor], target: Target, method: str) -> Found:
    """What log weights [s, n] say, and the log weight that a draw of the posterior would have had."""
    upper = None
    if target.truth is not None:
        upper = torch.cat([of_truth(target.truth)[None], log_w[1:]]).logsumexp(0) - log(len(log_w))
    return Found(estimate(log_w), np.full(log_w.shape[1], method, dtype=object), upper)
