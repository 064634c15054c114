"""scANVI: labelled cells, whose state is made of their type and of variation within the type.

    plate "cells", n = 1 .. N
        y ~ Categorical(w)                                 the type of the cell, summed out exactly
        label ~ Annotation(C[y])                           its label
        u ~ Normal(0, I)                                   its variation within the type
        z ~ Normal(f_m(u, y), f_s(u, y))                   its state
        x ~ NB(l softmax(f(z, d)), theta)                  its counts

Plate diagram:

        +------------------------------------------- cells --+
        |  [[label]] <---- (y) ----> (z) ----> [[x]] <-- d,l |  <---- w, C, f_m, f_s, f, theta
        |                  (u) -------^                      |
        +----------------------------------------------------+

In ``Annotated`` the states of a type are one Gaussian; here they are a network of u, and may have any shape. In the
paper u is z2, z is z1, and the guide is q(z | x) q(y | z) q(u | z, y). Here y is summed out and the guide of u does not
depend on it: bounds are less tight, evidences are not. They are p(x, label | l), as in ``Annotated``. Example: 3 types.

    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(label="cell_type").read(simulated(cells=20, genes=5, types=3))
    >>> SCANVI(latent=2).sized(cells.dims).within(torch.zeros(3, 2), torch.eye(3))["m"].shape
    torch.Size([3, 2])

References
    Xu, C. et al. (2021) Probabilistic harmonization and annotation of single-cell transcriptomics data with deep
    generative models. Mol Syst Biol 17, e9620. doi:10.15252/msb.20209620
"""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import one_hot, softplus

from pyroscvi.distributions.annotation import Annotation, trusted
from pyroscvi.parts import MLP, NB, Condition, Decoder, Likelihood, ObservedSize, OneHot, Size
from pyroscvi.program import Model
from pyroscvi.ranges import Fraction, PositiveInt

__all__ = ["SCANVI"]


class SCANVI(Model):
    observes = "x, label"

    latent: PositiveInt = 10
    trust: Fraction = 0.99
    condition: Condition = OneHot("batch")
    size: Size = ObservedSize()
    decoder: Decoder = MLP()
    likelihood: Likelihood = NB()
    within: MLP = MLP()

    def build(self, dims):
        super().build(dims)
        types = self.types = dims.count("label")
        self.w = nn.Parameter(torch.zeros(types))
        state = replace(dims, genes=self.latent, profile=None)  # f_m and f_s predict z, and not genes
        self.within = self.within.sized(state, latent=self.latent, conditions=types, heads=("m", "s"))
        self.within.start_equal(self.latent)  # so that labels, not clusters, separate types first
        self.register_buffer("C", trusted(types, self.trust))

    def deviation(self, raw):
        return softplus(raw) + 1e-3

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            d = self.condition(cells)
            l = self.size(cells)
            y = pyro.sample("y", dist.Categorical(logits=self.w), infer={"enumerate": "parallel"})
            pyro.sample("label", Annotation(self.C[y]), obs=cells.label_weights(self.types))
            u = pyro.sample("u", dist.Normal(torch.zeros(self.latent).to(self.w), 1.0).to_event(1))
            of_z = self.within(u, one_hot(y, self.types).to(u))
            z = pyro.sample("z", dist.Normal(of_z["m"], self.deviation(of_z["s"])).to_event(1))
            pyro.sample("x", self.likelihood(l, log_theta, **self.decoder(z, d)), obs=cells.x)
