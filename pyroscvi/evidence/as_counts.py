"""Scores a Gaussian on log counts by the probability of counts, so that it can be compared with a count model.

    with as_counts():
        compare({"ppca": ppca, "scvi": scvi}, held_out)

A density of log(1 + x) and a probability of x are on different scales, which do not differ by a constant. The mass of
the density on [x - 1/2, x + 1/2] is a probability of the count x, and these probabilities add up to one.
"""

from typing import Any

from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyroscvi.distributions.count_vector import CountVector


class as_counts(Messenger):
    """Score every site that has a ``log_mass`` by the mass of its rounded value."""

    def _pyro_sample(self, message: Any) -> None:
        if hasattr(message["fn"], "log_mass"):
            message["fn"] = Rounded(message["fn"])


class Rounded(TorchDistribution):
    """The distribution of a value with a density on the half-line, rounded to a count."""

    support = CountVector.support
    base_measure = CountVector.base_measure
    arg_constraints: dict = {}

    def __init__(self, base: Any):
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Rounded":
        return Rounded(self.base.expand(batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.base.sample(sample_shape).round()

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_mass(value)
