"""GMVAE: cells belong to kinds, and a linear decoder shows which genes distinguish the kinds.

    plate "cells", n = 1 .. N
        k ~ Categorical(w)                            the kind of the cell, summed out exactly
        z ~ Normal(m[k], s[k])                        its state
        x ~ NB(l softmax(W (z, d) + c), theta)        its counts

Plate diagram:

        +------------------------------- cells --+
        |  (k) ----> (z) ----> [[x]] <---- d, l  |  <---- w, m, s, W, c, theta
        +----------------------------------------+

The ELBO sums over ``k``, so that a guide needs q(z | x) only; p(k | z) follows from Bayes' rule (``responsibilities``).
``SCVI(prior=Mixture(...), decoder=Linear(), likelihood=NB())`` is the same model. The size is the observed total of the
cell, and the evidence is p(x | l).

Example: the probabilities of 3 kinds, for a cell with state z = (0, 0), sum to one.

    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(batch="batch").read(simulated(cells=20, genes=5))
    >>> p = GMVAE(latent=2, kinds=3).sized(cells.dims).responsibilities(torch.zeros(1, 2))
    >>> p.shape, round(p.sum().item(), 5)
    (torch.Size([1, 3]), 1.0)

References
    Gronbech, C. H. et al. (2020) scVAE: variational auto-encoders for single-cell gene expression data. Bioinformatics
    36, 4415-4422. doi:10.1093/bioinformatics/btaa293
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyroscvi.parts import NB, Condition, Decoder, Likelihood, Linear, ObservedSize, OneHot, Size
from pyroscvi.parts.clusters import set_to_clusters
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveInt

__all__ = ["GMVAE"]


class GMVAE(Model):
    latent: PositiveInt = 10
    kinds: PositiveInt = 8
    condition: Condition = OneHot("batch")
    size: Size = ObservedSize()
    decoder: Decoder = Linear()
    likelihood: Likelihood = NB()

    def build(self, dims):
        super().build(dims)
        self.w = nn.Parameter(torch.zeros(self.kinds))
        self.m = nn.Parameter(torch.randn(self.kinds, self.latent))
        self.raw_s = nn.Parameter(torch.zeros(self.kinds, self.latent))

    @property
    def s(self):
        return softplus(self.raw_s) + 1e-3

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            d = self.condition(cells)
            l = self.size(cells)
            k = pyro.sample("k", dist.Categorical(logits=self.w), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(self.m[k], self.s[k]).to_event(1))
            eta = self.decoder(z, d)
            pyro.sample("x", self.likelihood(l, log_theta, **eta), obs=cells.x)

    def settle(self, z):
        set_to_clusters(self.w, self.m, self.raw_s, z)

    def responsibilities(self, z: Tensor) -> Tensor:
        """p(k | z) [..., kinds], for states z [..., latent]."""
        log_joint = self.w.log_softmax(-1) + dist.Normal(self.m, self.s).to_event(1).log_prob(z.unsqueeze(-2))
        return log_joint.softmax(-1)
