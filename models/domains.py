"""Domains: a domain of a tissue is how often it has each type of cell, and nearby cells share a domain.

    plate "cells", n = 1 .. N
        t ~ Categorical(w_t prod_m (1 + c_nm (p(x_m | t) / p(x_m) - 1)))    its domain, given the cells m before it
        k ~ Categorical(pi[t])                                              its type; both are summed out
        x ~ NB(l softmax(W[k] + V d + c), theta)                            its counts

Plate diagram:

        +--------------------------------------- cells --+
        |  [[x of m]] ----> (t) ----> (k) ----> [[x]]    |  <---- w, a, r, pi, W, V, c, theta
        |                                  d, l ---^     |
        +------------------------------------------------+

c_nm = a exp(-distance / r) is the probability that a cell m has the domain of n because it is near (``Coupling``). The
domain of every m is summed out, so that the product over cells is a proper density, with a known constant. The
evidence, p(x | l, others), is exact. Cells need ``Fields(spatial=..., predecessors=20)``, or are independent.
``fit.domains(cells)`` reads neighbours on all sides. Example: log p(x | t) - log p(x) of 20 cells and 3 domains.

    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(spatial="spatial", predecessors=5).read(simulated(cells=20, genes=5, sections=1))
    >>> Domains(domains=3, kinds=4).sized(cells.dims).log_ratio(cells).shape
    torch.Size([20, 3])

References
    Li, Z. & Zhou, X. (2022) BASS: multi-scale and multi-sample analysis enables accurate cell type clustering and
    spatial domain detection in spatial transcriptomic studies. Genome Biol 23, 168. doi:10.1186/s13059-022-02734-7
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import one_hot

from pyroscvi.parts import NB, Condition, Coupling, Likelihood, Linear, ObservedSize, OneHot, Size
from pyroscvi.parts.clusters import start_at_clusters
from pyroscvi.parts.coupling import log_p_given, log_ratio, start_at_neighbourhoods
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveInt

__all__ = ["Domains"]


class Domains(Model):
    domains: PositiveInt = 4
    kinds: PositiveInt = 15
    coupling: Coupling = Coupling()
    condition: Condition = OneHot("batch")
    size: Size = ObservedSize()
    likelihood: Likelihood = NB()

    def build(self, dims):
        super().build(dims)
        self.coupling = self.coupling.sized()
        self.w = nn.Parameter(torch.zeros(self.domains))
        self.log_pi = nn.Parameter(torch.randn(self.domains, self.kinds))
        inputs = {"latent": self.kinds, "conditions": self.condition.width}
        self.decoder = Linear().sized(dims, **inputs, heads=self.likelihood.heads)  # W, V and c

    def begin(self, cells):
        start_at_clusters(self.decoder.heads["rho"], self.kinds, cells)
        start_at_neighbourhoods(self.w, self.log_pi, cells, lambda some: log_p_given(self, some).softmax(0).T)

    def single(self):
        return [self.w, self.log_pi, *self.decoder.parameters()]

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        odds = self.coupling(cells, lambda others: self.log_ratio(others, log_theta))
        with cells.plate():
            d, l = self.condition(cells), self.size(cells)
            t = pyro.sample("t", dist.Categorical(logits=self.w + odds), infer={"enumerate": "parallel"})
            k = pyro.sample("k", dist.Categorical(logits=self.log_pi[t]), infer={"enumerate": "parallel"})
            eta = self.decoder(one_hot(k, self.kinds).to(cells.dtype), d)
            pyro.sample("x", self.likelihood(l, log_theta, **eta), obs=cells.x)

    def log_ratio(self, cells, log_theta=None):
        """log p(x | t) - log p(x) [n, domains]."""
        return log_ratio(self.w, self.log_pi, log_p_given(self, cells, log_theta))
