"""Mixture: cells belong to kinds, and every kind has one profile; no network and no continuous latent.

    plate "cells", n = 1 .. N
        k ~ Categorical(w)                            the kind of the cell, summed out exactly
        x ~ NB(l softmax(W[k] + V d + c), theta)      its counts

Plate diagram:

        +--------------------- cells --+
        |  (k) ----> [[x]] <---- d, l  |  <---- w, W, V, c, theta
        +------------------------------+

The smallest lesson in enumeration. ``infer={"enumerate": "parallel"}`` gives k all kinds at once, [kinds, 1], and x a
log-probability for each, [kinds, n]. The ELBO sums over the kinds. As no latent is left, the ELBO is log p(x) itself,
a guide has nothing to learn, and the evidence is exact: p(x | l). ``Fit.probabilities(cells, "k")`` is Bayes' rule.
Kinds start at clusters of cells. With one kind genes are independent given l. For counts without a common size, such
as objects in images: ``Mixture(size=UnitSize(), likelihood=NB(link=Exponential()))``. Not the prior of this name.

Example: log p(x, k) of 20 cells under 3 kinds.

    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(batch="batch").read(simulated(cells=20, genes=5))
    >>> every_kind = pyro.poutine.enum(Mixture(kinds=3).sized(cells.dims), first_available_dim=-2)
    >>> trace = pyro.poutine.trace(every_kind).get_trace(cells)
    >>> trace.compute_log_prob()
    >>> (trace.nodes["k"]["log_prob"] + trace.nodes["x"]["log_prob"]).shape
    torch.Size([3, 20])

References
    McLachlan, G. & Peel, D. (2000) Finite mixture models. Wiley. doi:10.1002/0471721182
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import one_hot

from pyroscvi.parts import NB, Condition, Likelihood, Linear, ObservedSize, OneHot, Size
from pyroscvi.parts.clusters import start_at_clusters
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveInt

__all__ = ["Mixture"]


class Mixture(Model):
    kinds: PositiveInt = 8
    condition: Condition = OneHot("batch")
    size: Size = ObservedSize()
    likelihood: Likelihood = NB()

    def build(self, dims):
        super().build(dims)
        conditions, heads = self.condition.width, self.likelihood.heads
        self.w = nn.Parameter(torch.zeros(self.kinds))
        self.decoder = Linear().sized(dims, latent=self.kinds, conditions=conditions, heads=heads)  # W, V and c

    @property
    def width(self):
        return self.kinds

    def begin(self, cells):
        start_at_clusters(self.decoder.heads["rho"], self.kinds, cells)

    def single(self):
        return [self.w, *self.decoder.parameters()]

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            d = self.condition(cells)
            l = self.size(cells)
            k = pyro.sample("k", dist.Categorical(logits=self.w), infer={"enumerate": "parallel"})
            eta = self.decoder(one_hot(k, self.kinds).to(cells.dtype), d)
            pyro.sample("x", self.likelihood(l, log_theta, **eta), obs=cells.x)
