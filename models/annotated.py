"""Annotated cells: some cells carry a label, sure or unsure, and the label may be wrong.

    plate "cells", n = 1 .. N
        y ~ Categorical(w)                                 the type of the cell, summed out exactly
        label ~ Annotation(C[y])                           what was said of it
        z ~ Normal(m[y], s[y])                             its state
        x ~ NB(l softmax(f(z, d)), theta)                  its counts

Plate diagram:

        +------------------------------------- cells --+
        |  [[label]] <---- (y) ----> (z) ----> [[x]]   |  <---- w, C, m, s, f, theta
        |                                       ^      |
        |                               d, l ---+      |
        +----------------------------------------------+

C[y] is the annotator: right with probability ``trust``, otherwise any other type. A label may be a type, a row of
weights (a softmax, say), or missing, in which case every type is as well said as any other. ``y`` is never sampled;
its posterior is exact given z, so that ``Fit.probabilities(cells, "y")`` is calibrated as far as the model is right.
Labels are scored: the evidence is p(x, label | l).

Types begin alike, at m = 0, so that labels are what first tells them apart: given random places they settle on
clusters before a few labels can say which is which. More weight on the labels is no part of the model but of the fit:
``fit(..., objectives=[Classifier(10)])``.

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

from pyroscvi.distributions.annotation import Annotation
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
        self.m = nn.Parameter(torch.zeros(types, self.latent))  # so that labels are what first tells types apart
        self.raw_s = nn.Parameter(torch.zeros(types, self.latent))
        wrong = (1 - self.trust) / max(types - 1, 1)
        self.register_buffer("C", torch.full((types, types), wrong).fill_diagonal_(1 - wrong * (types - 1)))

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
