"""A Gaussian distribution of log(1 + x), and the probabilities of counts under it."""

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus
from torch.special import log_ndtr

from pyroscvi.distributions.parameters import Shares, log_share


class Log1pNormal(TorchDistribution):
    """log(1 + x_g) ~ Normal(loc_g, exp(log_scale_g)).

    ``log_prob`` is the density of log(1 + x), which cannot be compared with a probability of counts; ``base_measure``
    records this. ``log_mass`` can be compared: it is the probability that x rounds to the count.

    loc        mean of log(1 + x)                     [..., g]; or the ``Shares`` that give mu, loc = log(1 + mu)
    log_scale  log standard deviation of log(1 + x)   broadcasts to [..., g]
    """

    support = constraints.independent(constraints.nonnegative, 1)
    has_rsample = False
    arg_constraints: ClassVar[dict[str, Any]] = {}
    base_measure: ClassVar[str] = "log1p"
    measured: Tensor | None = None  # True for genes that were measured [..., n, g]; None: all

    def __init__(self, loc: Tensor | Shares, log_scale: Tensor):
        self.shares = loc if isinstance(loc, Shares) else None
        self.loc, self.log_scale = softplus(loc.log_mu) if isinstance(loc, Shares) else loc, log_scale
        loc = self.loc
        shape = torch.broadcast_shapes(loc.shape, log_scale.shape)
        super().__init__(shape[:-1], shape[-1:], validate_args=False)

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp()

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of log(1 + x), summed over genes [...]."""
        return self.log_density(x).sum(-1)

    def log_density(self, x: Tensor) -> Tensor:
        """Log-density of log(1 + x) of every gene [..., g]; 0 where it was not measured."""
        z = (x.log1p() - self.loc) / self.scale
        return self._of_measured(-0.5 * z * z - self.log_scale - 0.5 * math.log(2 * math.pi))

    def among(self, measured: Tensor, total: Tensor | None = None) -> Self:
        """These values, some of which were not measured: ``CountVector.among``."""
        new = copy.copy(self)
        new.measured = measured
        if total is not None and self.shares is not None:
            logits = self.shares.logits
            new.loc = softplus(Shares(logits, total.log() - log_share(logits, measured)).log_mu)
        return new

    def _of_measured(self, log_p: Tensor) -> Tensor:
        return log_p if self.measured is None else torch.where(self.measured, log_p, 0.0)

    def log_pmf(self, x: Tensor) -> Tensor:
        """log P(x_g - 1/2 < x < x_g + 1/2) of every gene [..., g]; every x below 1/2 counts as zero.

        Computed in float64: at x = 1e4 the interval has width 1e-4 on the log scale.
        """
        x, loc, scale = x.double(), self.loc.double(), self.scale.double()
        above = ((x + 0.5).log1p() - loc) / scale
        below = ((x - 0.5).clamp(min=0.5).log1p() - loc) / scale
        # Phi(above) - Phi(below), mirrored into the lower tail, where log Phi is accurate
        mirrored = below > 0
        high, low = torch.where(mirrored, -below, above), torch.where(mirrored, -above, below)
        # at x = 0 the interval has no lower end, but the difference must be finite for its gradient
        low = torch.where(x > 0, low, high - 1)
        interval = log_ndtr(high) + torch.log(-torch.expm1(log_ndtr(low) - log_ndtr(high)))
        return self._of_measured(torch.where(x > 0, interval, log_ndtr(above)).to(self.loc.dtype))

    def log_mass(self, x: Tensor) -> Tensor:
        """log P(every x_g rounds to its count) [...]: comparable with ``log_prob`` of a count distribution."""
        return self.log_pmf(x).sum(-1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Log1pNormal":
        new = Log1pNormal(self.loc.expand(Size(batch_shape) + self.event_shape), self.log_scale)
        new.shares, new.measured = self.shares, self.measured
        return new

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Samples exp(y) - 1 for a normal y, not rounded; values below zero become zero."""
        return self.sample_as_scored(sample_shape).clamp(min=0)

    def sample_as_scored(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Samples exp(y) - 1 for a normal y, with values below zero: their density is ``log_prob``."""
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            return torch.normal(self.loc.expand(shape), self.scale.expand(shape)).expm1()

    @property
    def mean(self) -> Tensor:
        """E[x] without clipping at zero: the mean of a shifted log-normal."""
        return (self.loc + 0.5 * self.scale**2).expm1()

    @property
    def variance(self) -> Tensor:
        s2 = self.scale**2
        return torch.expm1(s2) * (2 * self.loc + s2).exp()

    def __repr__(self) -> str:
        return f"Log1pNormal(batch_shape={tuple(self.batch_shape)}, genes={self.event_shape[0]})"
