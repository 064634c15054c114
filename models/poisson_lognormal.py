"""Poisson log-normal: the log rates of genes are correlated Gaussians, and counts are Poisson.

    plate "cells", n = 1 .. N
        z ~ Normal(0, I)                              the state of the cell
        x ~ Poisson(l exp(W z + V d + c))             its counts

Plate diagram:

        +----------------------- cells --+
        |  (z) ----> [[x]] <---- d, l    |  <---- W, V, c
        +--------------------------------+

The log rates of a cell are Normal(V d + c, W W'). This covariance between genes has low rank, and all over-dispersion
of counts comes from it. Under a softmax a larger rate of one gene makes those of other genes smaller; here it does not.
The size is the observed total of the cell, and the evidence is p(x | l).

Example: the means of a cell need not sum to its size, as they would under a softmax.

    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(batch="batch").read(simulated(cells=20, genes=5))
    >>> trace = pyro.poutine.trace(PoissonLognormal(latent=2).sized(cells.dims)).get_trace(cells)
    >>> bool((trace.nodes["x"]["fn"].mean.sum(-1) / cells.library.squeeze() - 1).abs().max() < 1e-3)
    False

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
