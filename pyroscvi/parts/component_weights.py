"""Weights w of the components of a mixture: parameters, or a latent that all cells share.

A prior on w decides how many components there are: under ``StickBreaking`` later ones have smaller weights, so that
``components`` is only a limit, and under ``DirichletWeights(a)`` with a small a most of them are near zero.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyroscvi.parts.shared import Shared
from pyroscvi.ranges import PositiveFloat

__all__ = ["ComponentWeights", "DirichletWeights", "LearnedWeights", "StickBreaking"]


class ComponentWeights(Shared):
    """A slot for the weights of components [.., components]."""

    def build(self, components: int) -> None:
        self.register_buffer("ones", torch.ones(components))

    def forward(self) -> Tensor:
        return self.now()


class LearnedWeights(ComponentWeights):
    """w is a parameter of the mixture, estimated by maximum likelihood."""

    def build(self, components): ...

    def draw(self):
        return None


class DirichletWeights(ComponentWeights):
    """w ~ Dirichlet(a, .., a)."""

    a: PositiveFloat = 1.0

    def draw(self):
        return pyro.sample("w", dist.Dirichlet(self.a * self.ones))


class StickBreaking(ComponentWeights):
    """w_k = v_k (1 - v_1) .. (1 - v_{k-1}), v_k ~ Beta(1, a); the last component has the rest [Sethuraman, 1994].

    About 1 + a log(n) components are used by n cells. It is a Dirichlet process that is cut off at ``components``.
    """

    a: PositiveFloat = 1.0

    def draw(self):
        one = self.ones[1:]
        v = pyro.sample("v", dist.Beta(one, self.a * one).to_event(1))
        first = torch.ones_like(v[..., :1])
        return torch.cat([v, first], -1) * torch.cat([first, (1 - v).cumprod(-1)], -1)
