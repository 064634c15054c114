"""What a count distribution is given."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Size, Tensor

__all__ = ["THETA_MAX", "THETA_MIN", "Parameters"]

# Beyond these the limit has been reached in either precision. They are powers of two, so that to divide by theta and to
# multiply by it again is exact, and theta = infinity is the Poisson, digit for digit.
THETA_MIN, THETA_MAX = 2.0**-60, 2.0**80


class Parameters(NamedTuple):
    """The parameters of a count distribution, or the slopes of log p in their logarithms; None for what it lacks."""

    mean: Tensor  # log mu; or logits, of which the softmax is a share of the size  [..., g]
    size: Tensor | None = None  # log size                                          [..., 1]
    dispersion: Tensor | None = None  # log theta, or theta; None is the Poisson    [..., g]
    gate: Tensor | None = None  # logits of an extra zero; None is no such zero     [..., g]

    def each(self, change: Callable[[Tensor], Tensor]) -> "Parameters":
        return Parameters(*(None if t is None else change(t) for t in self))  # type: ignore[arg-type]

    def with_theta(self) -> "Parameters":
        """The same with theta in place of its logarithm."""
        if self.dispersion is None:
            return self
        return self._replace(dispersion=self.dispersion.exp().clamp_(THETA_MIN, THETA_MAX))

    def spread(self, shape: Size, make: Callable[[Tensor, Size], Tensor]) -> "Parameters":
        """make(parameter, shape) for each, where the shape is [..., 1] for the size and [..., g] for the others."""
        one = Size((*shape[:-1], 1))
        return Parameters(*(None if t is None else make(t, one if t is self.size else shape) for t in self))  # type: ignore[arg-type]
