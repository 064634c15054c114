"""Poisson log-normal: genes vary together, and counts are Poisson about them.

    plate "cells", n = 1 .. N
        z ~ Normal(0, I)                              the state of the cell
        x ~ Poisson(l exp(W z + V d + c))             its counts

Plate diagram:

        +----------------------- cells --+
        |  (z) ----> [[x]] <---- d, l    |  <---- W, V, c
        +--------------------------------+

The log rates of a cell are Normal(V d + c, W W'): a covariance of low rank over genes, which all of their
over-dispersion comes from. The rate of one gene does not take from another's, as it does under a softmax. The size is
the observed total of the cell, and the evidence p(x | l).

References
    Aitchison, J. & Ho, C. H. (1989) The multivariate Poisson-log normal distribution. Biometrika 76, 643-653.
    doi:10.1093/biomet/76.4.643
    Chiquet, J. et al. (2018) Variational inference for probabilistic Poisson PCA. Ann Appl Stat 12, 2674-2698.
    doi:10.1214/18-AOAS1177
"""

import pyro

from pyroscvi.parts import (
    Condition,
    Decoder,
    Exponential,
    Likelihood,
    Linear,
    ObservedSize,
    OneHot,
    Poisson,
    Prior,
    Size,
    StandardNormal,
)
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveInt

__all__ = ["PoissonLognormal"]


class PoissonLognormal(Model):
    latent: PositiveInt = 10
    prior: Prior = StandardNormal()
    condition: Condition = OneHot("batch")
    size: Size = ObservedSize()
    decoder: Decoder = Linear()
    likelihood: Likelihood = Poisson(link=Exponential())

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            d = self.condition(cells)
            l = self.size(cells)
            z = self.prior()
            eta = self.decoder(z, d)
            pyro.sample("x", self.likelihood(l, log_theta, **eta), obs=cells.x)
