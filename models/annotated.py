"""Annotated cells: some cells have a label, certain or uncertain, and a label may be wrong.

    plate "cells", n = 1 .. N
        y ~ Categorical(w)                                 the type of the cell, summed out exactly
        label ~ Annotation(C[y])                           its label
        z ~ Normal(m[y], s[y])                             its state
        x ~ NB(l softmax(f(z, d)), theta)                  its counts

Plate diagram:

        +------------------------------------- cells --+
        |  [[label]] <---- (y) ----> (z) ----> [[x]]   |  <---- w, C, m, s, f, theta
        |                               d, l ---^      |
        +----------------------------------------------+

C[y] holds the probabilities of labels: ``trust`` for type y, the rest shared equally by other types. A label is a type,
a row of weights (such as a softmax), or missing (all weights 1). The ELBO sums over ``y``; its posterior given z is
exact: ``Fit.probabilities(cells, "y")``. The evidence includes the labels: it is p(x, label | l). All types start at
m = 0, so that labels, not clusters, separate them first. ``fit(..., objectives=[Classifier(10)])`` gives labels more
weight. Example: a cell of type 0 has label 0 with probability 0.9.

    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(label="cell_type").read(simulated(cells=20, genes=5, types=3))
    >>> Annotated(trust=0.9).sized(cells.dims).C[0]
    tensor([0.9000, 0.0500, 0.0500])

References
    Kingma, D. P. et al. (2014) Semi-supervised learning with deep generative models. NeurIPS. arXiv:1406.5298
    Xu, C. et al. (2021) Probabilistic harmonization and annotation of single-cell transcriptomics data with deep
    generative models. Mol Syst Biol 17, e9620. doi:10.15252/msb.20209620
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import softplus

from pyroscvi.distributions.annotation import Annotation, trusted
from pyroscvi.parts import MLP, NB, Condition, Decoder, Likelihood, ObservedSize, OneHot, Size
from pyroscvi.program import Model
from pyroscvi.ranges import Fraction, PositiveInt

__all__ = ["Annotated"]


class Annotated(Model):
    observes = "x, label"

    latent: PositiveInt = 10
    trust: Fraction = 0.99
    condition: Condition = OneHot("batch")
    size: Size = ObservedSize()
    decoder: Decoder = MLP()
    likelihood: Likelihood = NB()

    def build(self, dims):
        super().build(dims)
        types = self.types = dims.count("label")
        self.w = nn.Parameter(torch.zeros(types))
        self.m = nn.Parameter(torch.zeros(types, self.latent))  # equal, so that labels separate types first
        self.raw_s = nn.Parameter(torch.zeros(types, self.latent))
        self.register_buffer("C", trusted(types, self.trust))

    @property
    def s(self):
        return softplus(self.raw_s) + 1e-3

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            d = self.condition(cells)
            l = self.size(cells)
            y = pyro.sample("y", dist.Categorical(logits=self.w), infer={"enumerate": "parallel"})
            pyro.sample("label", Annotation(self.C[y]), obs=cells.label_weights(self.types))
            z = pyro.sample("z", dist.Normal(self.m[y], self.s[y]).to_event(1))
            eta = self.decoder(z, d)
            pyro.sample("x", self.likelihood(l, log_theta, **eta), obs=cells.x)
