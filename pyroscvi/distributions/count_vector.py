"""The base class of count distributions, whose event is the whole count vector of a cell."""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from pyroscvi.distributions import kernel
from pyroscvi.distributions.parameters import ABSENT, Parameters, Shares, log_share


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
    measured: Tensor | None = None  # True for genes that were measured [..., n, g]; None: all
    total: Tensor | None = None  # of the measured genes, where the size of a cell follows from it [n, 1]

    def __init__(self, log_mu: Tensor | Shares, log_theta: Tensor | None = None, gate: Tensor | None = None):
        mean, size = log_mu if isinstance(log_mu, Shares) else (log_mu, None)
        self.parameters = Parameters(mean, size, log_theta, gate)
        shape = torch.broadcast_shapes(*(t.shape for t in self.parameters if t is not None))
        super().__init__(shape[:-1], shape[-1:], validate_args=False)

    @property
    def log_mu(self) -> Tensor:
        mean, size, *_ = self.parameters
        if size is None:
            return mean
        if self.measured is not None and self.total is not None:
            size = self.total.log() - log_share(mean, self.measured)
        return Shares(mean, size).log_mu

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

    def among(self, measured: Tensor, total: Tensor | None = None) -> Self:
        """These counts, some of which were not measured: ``log_prob`` sums over the others.

        measured  True for the genes that were measured                             [n, g]
        total     of the measured genes, where the size is the observed total [n, 1]: their means then sum to it, and
                  the size of the cell is this total divided by their share

        Mean, variance and samples are still of all genes.
        """
        new = copy.copy(self)
        new.measured, new.total = measured, total
        return new

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of every cell [...]: of the genes that were measured."""
        if self.measured is None:
            return kernel.log_prob(x, self.parameters)
        mean, size, dispersion, gate = self.parameters
        if size is not None:
            size = size + log_share(mean, self.measured) if self.total is None else self.total.log()
        if gate is not None:
            gate = torch.where(self.measured, gate, ABSENT)
        mean = torch.where(self.measured, mean, ABSENT)
        return kernel.log_prob(x * self.measured, Parameters(mean, size, dispersion, gate))

    def log_pmf(self, x: Tensor) -> Tensor:
        """log p(x_g) of every gene [..., g], as if each gene were a cell of one gene; 0 where it was not measured."""
        single = self.parameters._replace(mean=self.log_mu, size=None).map(lambda t: t.unsqueeze(-1))
        log_p = kernel.log_prob(x.unsqueeze(-1), single)
        return log_p if self.measured is None else torch.where(self.measured, log_p, 0.0)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "CountVector":
        new = type(self).__new__(type(self))
        mean, size, *others = self.parameters
        mean = mean.expand(Size(batch_shape) + self.event_shape)
        CountVector.__init__(new, mean if size is None else Shares(mean, size), *others)
        new.measured, new.total = self.measured, self.total
        return new

    def _draw(self, shape: Size) -> Tensor:
        raise NotImplementedError

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self._draw(self._extended_shape(Size(sample_shape)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_shape={tuple(self.batch_shape)}, genes={self.event_shape[0]})"
