"""Donors: cells within donors within conditions; effects of donors vary around those of their conditions.

    a ~ Normal(0, t)                              effects of conditions c on the log rates of genes
    s ~ LogNormal(m, v)                           how far donors differ, for each gene
    b ~ Normal(a[c], s)                           effects of donors p in conditions c
    plate "cells", n = 1 .. N
        z ~ Normal(0, I)                          the state of the cell
        x ~ NB(l softmax(f(z, d) + b[p, c]), theta)

Plate diagram:
        +------------------ cells --+
        |  (z) ----> [[x]] <---- d,l|  <---- (b) <---- (a), (s) <---- m, v;  f, theta
        +---------------------------+

Cells of a donor are alike, so conditions are compared by donors, not by cells: with D donors each, the variance of a is
about s^2 / D. Genes share m and v, which are learnt. b is centred at a, and so a mean field guide, in which they are
independent, has this variance too. For paired donors, look at b[p, 1] - b[p, 0]. All cells share a, s and b: evidence,
p(x | l), plugs in their posterior centres, as it does parameters; ``data_evidence`` integrates over them. For example:

    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(batch="batch", label="cell_type").read(simulated(cells=20, genes=5))
    >>> trace = pyro.poutine.trace(Donors(latent=2).sized(cells.dims)).get_trace(cells)
    >>> trace.nodes["b"]["value"].unflatten(-1, (2, 3, 5)).shape
    torch.Size([2, 3, 5])

References
    Smyth, G. K. (2004) Linear models and empirical Bayes methods for assessing differential expression. Stat Appl Genet
    Mol Biol 3, 3. doi:10.2202/1544-6115.1027
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyroscvi.parts import MLP, NB, Condition, Decoder, Likelihood, Nothing, ObservedSize, Prior, Size, StandardNormal
from pyroscvi.parts.conditions import crossed
from pyroscvi.parts.loadings import shifted
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveFloat, PositiveInt

__all__ = ["Donors"]


class Donors(Model):
    latent: PositiveInt = 10
    donor: str = "batch"
    treatment: str = "label"
    t: PositiveFloat = 1.0
    prior: Prior = StandardNormal()
    condition: Condition = Nothing()
    size: Size = ObservedSize()
    decoder: Decoder = MLP()
    likelihood: Likelihood = NB()

    def build(self, dims):
        super().build(dims)
        self.levels = {field: dims.count(field) for field in (self.donor, self.treatment)}
        self.m, self.log_v = nn.Parameter(torch.tensor(-1.5)), nn.Parameter(torch.tensor(-0.7))
        self.register_buffer("seen", torch.ones(*self.levels.values(), dims.genes, dtype=torch.bool))

    def begin(self, cells):
        self.seen.copy_(crossed(cells, self.levels).amax(0).eq(1).view(*self.levels.values(), 1))

    def single(self):
        return [self.m, self.log_v]

    def model(self, cells):
        zeros, genes = torch.zeros(self.seen[0].numel()).to(self.m), self.seen.shape[-1]
        a = pyro.sample("a", dist.Normal(zeros, self.t).to_event(1))
        s = pyro.sample("s", dist.LogNormal(self.m + zeros[:genes], self.log_v.exp()).to_event(1))
        seen = self.seen | (not self.training)  # other combinations say nothing about a and s
        parents = (effect.unflatten(-1, (1, -1, genes)) for effect in (a, s))
        mean, scale = (torch.where(seen, effect, effect.detach()).flatten(-3) for effect in parents)
        b = pyro.sample("b", dist.Normal(mean, scale).to_event(1))
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            l, d = self.size(cells), self.condition(cells)
            eta = shifted(self.decoder(self.prior(), d), crossed(cells, self.levels), b.unflatten(-1, (-1, genes)))
            pyro.sample("x", self.likelihood(l, log_theta, **eta), obs=cells.x)
