"""Hierarchical: two levels of latents, a coarse state of the cell and a state that depends on it.

    plate "cells", n = 1 .. N
        u ~ Normal(0, I)                                  the coarse state of the cell: few numbers
        z ~ Normal(f_m(u), f_s(u))                        its state, around what the coarse state predicts
        x ~ NB(l softmax(f(z, d)), theta)                 its counts

Plate diagram:

        +------------------------------- cells --+
        |  (u) ----> (z) ----> [[x]] <---- d, l  |  <---- f_m, f_s, f, theta
        +----------------------------------------+

Given u, z is Gaussian; over all cells it may have any shape, such as a curve or a ring: the prior of z is learnt.
``SCANVI`` is this page with the type of the cell beside u. If f_m and f_s do not depend on u, the page is scVI. The
guide of u reads the counts and not z, so the bound is less tight than that of a guide q(u | z). The evidence, p(x | l),
does not depend on the guide. Where the data do not need a level, its posterior is its prior.

Example: the means of the states of 3 cells whose coarse state is one number.

    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields().read(simulated(cells=20, genes=5))
    >>> model = Hierarchical(latent=2, coarse=1).sized(cells.dims)
    >>> model.of_z(torch.tensor([[-1.0], [0.0], [1.0]]), torch.zeros(3, 0))["m"].shape
    torch.Size([3, 2])

References
    Sonderby, C. K. et al. (2016) Ladder variational autoencoders. NeurIPS. arXiv:1602.02282
    Xu, C. et al. (2021) Probabilistic harmonization and annotation of single-cell transcriptomics data with deep
    generative models. Mol Syst Biol 17, e9620. doi:10.15252/msb.20209620
"""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import torch
from torch.nn.functional import softplus

from pyroscvi.parts import MLP, NB, Condition, Decoder, Likelihood, ObservedSize, OneHot, Size
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveInt

__all__ = ["Hierarchical"]


class Hierarchical(Model):
    latent: PositiveInt = 10
    coarse: PositiveInt = 2
    condition: Condition = OneHot("batch")
    size: Size = ObservedSize()
    of_z: MLP = MLP()
    decoder: Decoder = MLP()
    likelihood: Likelihood = NB()

    def build(self, dims):
        super().build(dims)
        state = replace(dims, genes=self.latent, profile=None)  # f_m and f_s predict z, and not genes
        self.of_z = self.of_z.sized(state, latent=self.coarse, conditions=0, heads=("m", "s"))

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            d = self.condition(cells)
            l = self.size(cells)
            u = pyro.sample("u", dist.Normal(torch.zeros(self.coarse).to(l), 1.0).to_event(1))
            of_z = self.of_z(u, d[..., :0])
            z = pyro.sample("z", dist.Normal(of_z["m"], softplus(of_z["s"]) + 1e-3).to_event(1))
            pyro.sample("x", self.likelihood(l, log_theta, **self.decoder(z, d)), obs=cells.x)
