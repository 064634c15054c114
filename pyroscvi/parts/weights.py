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
    """W_ij ~ Normal(0, s / sqrt(J)) of every layer, where J is its number of inputs; biases and norms have no prior.

    The variance of an output of the layer then does not depend on J [Neal, 1996, doi:10.1007/978-1-4612-0745-0].
    """

    s: PositiveFloat = 1.0

    def forward(self, weights):
        return -sum(W.shape[1] * W.square().sum() for W in weights) / (2 * self.s**2)
