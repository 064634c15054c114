"""Priors on the weights of a network: the fit maximises the ELBO plus the log-density of the weights (MAP).

Evidence is computed with the weights that were found: they are plugged in, and their prior does not enter p(x).
"""

from collections.abc import Iterable

from torch import Tensor

from pyroscvi.part import Part
from pyroscvi.ranges import PositiveFloat

__all__ = ["ARDWeights", "FlatWeights", "NormalWeights", "Weights"]


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


class ARDWeights(Weights):
    """W_ij ~ Normal(0, r_j), 1 / r_j^2 ~ Gamma(a, a s^2): inputs j that are not needed have weights near zero.

    Automatic relevance determination. The scale r_j of an input is integrated out, so its weights have a Student-t
    distribution together, whose density is finite at zero, as MAP needs it; the smaller a, the heavier its tails.
    """

    s: PositiveFloat = 1.0
    a: PositiveFloat = 1.0

    def forward(self, weights):
        return sum(self._of_layer(W) for W in weights)

    def _of_layer(self, W: Tensor) -> Tensor:
        square = W.square().sum(0) / (2 * self.a * self.s**2)
        return -(self.a + len(W) / 2) * square.log1p().sum()
