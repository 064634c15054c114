"""Priors on the weights of a network: the fit maximises the ELBO plus the log-density of the weights (MAP).

Evidence is computed with the weights that were found: they are plugged in, and their prior does not enter p(x).
"""

from collections.abc import Iterable

from torch import Tensor

from pyroscvi.part import Part
from pyroscvi.ranges import PositiveFloat

__all__ = ["FlatWeights", "NormalWeights", "Weights"]


class Weights(Part):
    """A slot from the weights of linear layers to their log-density [], up to a constant."""

    def forward(self, weights: Iterable[Tensor]) -> Tensor | float:
        raise NotImplementedError


class FlatWeights(Weights):
    """No prior: maximum likelihood."""

    def forward(self, weights):
        return 0.0


class NormalWeights(Weights):
    """W_ij ~ Normal(0, s), for every weight of every layer, and not for biases and norms."""

    s: PositiveFloat = 0.2

    def forward(self, weights):
        return -sum(W.square().sum() for W in weights) / (2 * self.s**2)
