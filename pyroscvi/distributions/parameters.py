"""The parameters of a count distribution, and a log mean as a size and shares of it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Size, Tensor

# Outside this range the limit is reached in float32 and float64. Both are powers of two, so that dividing by theta and
# multiplying by it again is exact, and theta = infinity is the Poisson to the last digit.
THETA_MIN, THETA_MAX = 2.0**-60, 2.0**80

MU_MAX = 2.0**60  # replaces larger means, under which every count is practically impossible

ABSENT = -1e4  # log mean of a gene that was not measured: its mean is 0, and so its count of 0 has probability one


class Parameters(NamedTuple):
    """The parameters of a count distribution, or the slopes of log p in them; None where there is no such parameter."""

    mean: Tensor  # log mu; with a size, the logits of shares of the size         [..., g]
    size: Tensor | None = None  # log size                                          [..., 1]
    dispersion: Tensor | None = None  # log theta, or theta; None: a Poisson        [..., g]
    gate: Tensor | None = None  # logits of an extra zero; None: no extra zeros     [..., g]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Parameters":
        return Parameters(*(None if t is None else change(t) for t in self))  # type: ignore[arg-type]

    def with_theta(self) -> "Parameters":
        """These parameters, with theta in place of log theta."""
        if self.dispersion is None:
            return self
        return self._replace(dispersion=self.dispersion.exp().clamp_(THETA_MIN, THETA_MAX))

    def with_shape(self, shape: Size, make: Callable[[Tensor, Size], Tensor]) -> "Parameters":
        """make(parameter, shape) for each parameter; the shape is [..., 1] for the size and [..., g] for the others."""
        one = Size((*shape[:-1], 1))
        return Parameters(*(None if t is None else make(t, one if t is self.size else shape) for t in self))  # type: ignore[arg-type]


class Shares(NamedTuple):
    """log mu_g = log l + log softmax(logits)_g, as its two terms.

    A distribution accepts ``Shares`` in place of ``log_mu``. It then computes the softmax and its gradient in the same
    pass over the counts as the likelihood.

    logits    linear predictors         [..., g]
    log_size  log size l of each cell   [..., 1]
    """

    logits: Tensor
    log_size: Tensor

    @property
    def log_mu(self) -> Tensor:
        return self.log_size + torch.log_softmax(self.logits, -1)


def log_share(logits: Tensor, measured: Tensor) -> Tensor:
    """The log of the sum of softmax(logits) over the measured genes [..., 1]."""
    among = torch.where(measured, logits, ABSENT)
    return among.logsumexp(-1, keepdim=True) - logits.logsumexp(-1, keepdim=True)
