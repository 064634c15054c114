"""A distribution whose event is the whole count vector of a cell."""

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from pyroscvi.distributions import kernel
from pyroscvi.distributions.shares import Shares

__all__ = ["CountVector"]


class CountVector(TorchDistribution):
    """Counts x [..., g] whose genes are independent given the parameters.

    The event is the vector of one cell [g], so that ``log_prob`` [...] may sum over genes inside one kernel; batch axes
    (particles, enumerated components, cells) broadcast from the left.

    log_mu     log mean, or the ``Shares`` it is made of       [..., g]
    log_theta  log inverse dispersion; None is the Poisson     broadcasts to [..., g]
    gate       logits of an extra zero; None is no extra zero  broadcasts to [..., g]
    """

    support = constraints.independent(constraints.nonnegative_integer, 1)
    has_rsample = False
    arg_constraints: ClassVar[dict[str, Any]] = {}
    base_measure: ClassVar[str] = "counting"

    def __init__(self, log_mu: Tensor | Shares, log_theta: Tensor | None = None, gate: Tensor | None = None):
        self._log_mu, self._log_theta, self._gate = log_mu, log_theta, gate
        mean = log_mu if isinstance(log_mu, Shares) else (log_mu,)
        shape = torch.broadcast_shapes(*(t.shape for t in (*mean, log_theta, gate) if t is not None))
        super().__init__(shape[:-1], shape[-1:], validate_args=False)

    @property
    def log_mu(self) -> Tensor:
        return self._log_mu.log_mu if isinstance(self._log_mu, Shares) else self._log_mu

    @property
    def mu(self) -> Tensor:
        return self.log_mu.exp()

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of every cell [...]."""
        return kernel.log_prob(x, self._log_mu, self._log_theta, self._gate)

    def log_pmf(self, x: Tensor) -> Tensor:
        """log p(x_g) of every gene [..., g]: each is a cell of one gene."""
        parameters = (self.log_mu, self._log_theta, self._gate)
        return kernel.log_prob(x.unsqueeze(-1), *(None if t is None else t.unsqueeze(-1) for t in parameters))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "CountVector":
        shape = Size(batch_shape) + self.event_shape
        new = type(self).__new__(type(self))
        if isinstance(self._log_mu, Shares):
            logits, log_size = self._log_mu
            log_mu: Tensor | Shares = Shares(logits.expand(shape), log_size)
        else:
            log_mu = self._log_mu.expand(shape)
        CountVector.__init__(new, log_mu, self._log_theta, self._gate)
        return new

    def _draw(self, shape: Size) -> Tensor:
        raise NotImplementedError

    def sample(self, sample_shape: Any = Size()) -> Tensor:
        with torch.no_grad():
            return self._draw(self._extended_shape(Size(sample_shape)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_shape={tuple(self.batch_shape)}, genes={self.event_shape[0]})"
