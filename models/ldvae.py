"""LDVAE: scVI with a linear decoder, so that every latent dimension is a list of genes.

    plate "cells", n = 1 .. N
        l ~ LogNormal(m[b], s[b])                     the size of the cell, about as large as its batch
        z ~ Normal(0, I)                              its state
        x ~ NB(l softmax(W (z, d) + c), theta)        its counts

Plate diagram:

        +------------------------------- cells --+
        |  (z) ----> [[x]] <---- (l) <---- b     |  <---- W, c, theta
        |               ^                        |
        |               +------- d               |
        +----------------------------------------+

Adding one to z_j adds W_gj to the log share of gene g, up to the normalisation that all genes have in common: read the
columns of ``Fit.loadings``. The factors may be rotated into each other without changing p(x); a ``Laplace`` prior
prefers axes. The size is latent, so the evidence is p(x).

References
    Svensson, V. et al. (2020) Interpretable factor models of single-cell RNA-seq via variational autoencoders.
    Bioinformatics 36, 3418-3421. doi:10.1093/bioinformatics/btaa169
"""

import pyro

from pyroscvi.parts import NB, Condition, Decoder, LatentSize, Likelihood, Linear, OneHot, Prior, Size, StandardNormal
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveInt

__all__ = ["LDVAE"]


class LDVAE(Model):
    latent: PositiveInt = 10
    prior: Prior = StandardNormal()
    condition: Condition = OneHot("batch")
    size: Size = LatentSize()
    decoder: Decoder = Linear()
    likelihood: Likelihood = NB()

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            d = self.condition(cells)
            l = self.size(cells)
            z = self.prior()
            eta = self.decoder(z, d)
            pyro.sample("x", self.likelihood(l, log_theta, **eta), obs=cells.x)
