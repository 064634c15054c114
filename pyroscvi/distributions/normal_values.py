"""Values of genes that are not counts: independent Gaussians."""

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints


class NormalValues(TorchDistribution):
    """x_g ~ Normal(loc_g, exp(log_scale_g)): ``log_prob`` is a density, which depends on the units of the values.

    loc        mean                     [..., g]
    log_scale  log standard deviation   broadcasts to [..., g]
    """

    support = constraints.independent(constraints.real, 1)
    has_rsample = False
    arg_constraints: ClassVar[dict[str, Any]] = {}
    base_measure: ClassVar[str] = "lebesgue"
    measured: Tensor | None = None  # True for genes that were measured [..., n, g]; None: all

    def __init__(self, loc: Tensor, log_scale: Tensor):
        self.loc, self.log_scale = loc, log_scale
        shape = torch.broadcast_shapes(loc.shape, log_scale.shape)
        super().__init__(shape[:-1], shape[-1:], validate_args=False)

    def log_pmf(self, x: Tensor) -> Tensor:
        """Log-density of every gene [..., g]; 0 where it was not measured."""
        z = (x - self.loc) * (-self.log_scale).exp()
        log_p = -0.5 * z * z - self.log_scale - 0.5 * math.log(2 * math.pi)
        return log_p if self.measured is None else torch.where(self.measured, log_p, 0.0)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.log_pmf(x).sum(-1)

    def among(self, measured: Tensor, total: Tensor | None = None) -> Self:
        """These values, some of which were not measured: ``CountVector.among``."""
        new = copy.copy(self)
        new.measured = measured
        return new

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "NormalValues":
        new = NormalValues(self.loc.expand(Size(batch_shape) + self.event_shape), self.log_scale)
        new.measured = self.measured
        return new

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            return torch.normal(self.loc.expand(shape), self.log_scale.exp().expand(shape))

    @property
    def mean(self) -> Tensor:
        return self.loc.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        return (2 * self.log_scale).exp().expand(self.batch_shape + self.event_shape)
