"""The base class of count distributions, whose event is the whole count vector of a cell."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from pyroscvi.distributions import kernel
from pyroscvi.distributions.parameters import Parameters, Shares


class CountVector(TorchDistribution):
    """Counts x [..., g] whose genes are independent given the parameters.

    The event is the vector of one cell [g], so that ``log_prob`` [...] sums over genes inside one kernel. Batch axes
    (particles, enumerated components, cells) broadcast from the left.

    A subclass documents its parameters and defines ``_draw`` and ``variance``; its mean is mu unless it says otherwise.
    """

    support = constraints.independent(constraints.nonnegative_integer, 1)
    has_rsample = False
    arg_constraints: ClassVar[dict[str, Any]] = {}
    base_measure: ClassVar[str] = "counting"

    def __init__(self, log_mu: Tensor | Shares, log_theta: Tensor | None = None, gate: Tensor | None = None):
        mean, size = log_mu if isinstance(log_mu, Shares) else (log_mu, None)
        self.parameters = Parameters(mean, size, log_theta, gate)
        shape = torch.broadcast_shapes(*(t.shape for t in self.parameters if t is not None))
        super().__init__(shape[:-1], shape[-1:], validate_args=False)

    @property
    def log_mu(self) -> Tensor:
        mean, size, *_ = self.parameters
        return mean if size is None else Shares(mean, size).log_mu

    @property
    def mu(self) -> Tensor:
        return self.log_mu.exp()

    @property
    def mean(self) -> Tensor:
        return self.mu.expand(self.batch_shape + self.event_shape)

    @property
    def log_theta(self) -> Tensor:
        if self.parameters.dispersion is None:
            raise AttributeError(f"{type(self).__name__} has no dispersion")
        return self.parameters.dispersion

    @property
    def theta(self) -> Tensor:
        return self.log_theta.exp()

    @property
    def gate(self) -> Tensor:
        if self.parameters.gate is None:
            raise AttributeError(f"{type(self).__name__} has no extra zeros")
        return self.parameters.gate

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of every cell [...]."""
        return kernel.log_prob(x, self.parameters)

    def log_pmf(self, x: Tensor) -> Tensor:
        """log p(x_g) of every gene [..., g], computed as if each gene were a cell of one gene."""
        single = self.parameters._replace(mean=self.log_mu, size=None).map(lambda t: t.unsqueeze(-1))
        return kernel.log_prob(x.unsqueeze(-1), single)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "CountVector":
        new = type(self).__new__(type(self))
        mean, size, *others = self.parameters
        mean = mean.expand(Size(batch_shape) + self.event_shape)
        CountVector.__init__(new, mean if size is None else Shares(mean, size), *others)
        return new

    def _draw(self, shape: Size) -> Tensor:
        raise NotImplementedError

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self._draw(self._extended_shape(Size(sample_shape)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_shape={tuple(self.batch_shape)}, genes={self.event_shape[0]})"
