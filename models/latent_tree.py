"""Latent tree: every gene is in one of few states, and the states of related genes depend on each other.

    plate "cells", n = 1 .. N
        s_g | s_t(g) ~ Categorical(T_g[s_t(g)])       the state of gene g, given that of its parent t(g) in the tree
        x ~ NB(l exp(W[s] + V d + c), theta)          its counts: each gene depends on its own state

Plate diagram:

        +---------------------- cells --+
        |  (s_1) --> (s_2) --> ...      |
        |    v         v                |  <---- t, T, W, V, c, theta
        |  [[x_1]]   [[x_2]] <---- d, l |
        +-------------------------------+

The states are summed out exactly by belief propagation, in the distribution of x, so that no latent is left: the
evidence is exact, p(x | l), and a guide has nothing to learn. A fit begins with the tree of Chow and Liu, whose edges
have the largest mutual information between genes above and below their medians. ``states`` is the posterior of the
states. Under a softmax the mean of a gene would depend on other genes, so the link is exponential.

Example: the probabilities of 2 states of each gene.

    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(batch="batch").read(simulated(cells=20, genes=5))
    >>> LatentTree(levels=2).sized(cells.dims).states(cells).shape
    torch.Size([20, 5, 2])

References
    Chow, C. K. & Liu, C. N. (1968) Approximating discrete probability distributions with dependence trees. IEEE Trans
    Inf Theory 14, 462-467. doi:10.1109/TIT.1968.1054142
"""

import pyro
import torch
from torch import nn

from pyroscvi import distributions
from pyroscvi.parts import NB, Condition, Exponential, Likelihood, Linear, ObservedSize, OneHot, Size
from pyroscvi.parts.trees import star, start_tree
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveInt

__all__ = ["LatentTree"]


class LatentTree(Model):
    levels: PositiveInt = 2
    condition: Condition = OneHot("batch")
    size: Size = ObservedSize()
    likelihood: Likelihood = NB(link=Exponential())

    def build(self, dims):
        super().build(dims)
        inputs = {"latent": self.levels, "conditions": self.condition.width}
        self.decoder = Linear().sized(dims, **inputs, heads=self.likelihood.heads)  # W, V and c
        self.T = nn.Parameter(torch.zeros(dims.genes, self.levels, self.levels))  # before a softmax of its rows
        self.register_buffer("parent", star(dims.genes))

    @property
    def width(self):
        return self.levels

    def begin(self, cells):
        start_tree(self.parent, self.T, self.decoder.heads["rho"], cells)

    def single(self):
        return [self.T, *self.decoder.parameters()]

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            d = self.condition(cells)
            l = self.size(cells)
            every_level = torch.eye(self.levels).to(l).unflatten(0, (-1, *(1,) * (max(d.dim(), l.dim()) - 1)))
            counts = self.likelihood(l, log_theta, **self.decoder(every_level, d))  # if all genes have level j [j, n]
            pyro.sample("x", distributions.LatentTree(self.parent, self.T.log_softmax(-1), counts), obs=cells.x)

    def states(self, cells):
        """p(s_g = j | x) of every gene [n, g, levels], where no latent is left."""
        nodes: dict = pyro.poutine.trace(self).get_trace(cells).nodes
        return nodes["x"]["fn"].after(cells.x).probabilities().detach()
