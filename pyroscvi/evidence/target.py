"""The target of an estimator: what is integrated for the cells of a minibatch."""

from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from pyroscvi.evidence.proposals import Elliptical, LogJoint
from pyroscvi.evidence.streams import Streams

__all__ = ["Target"]

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
