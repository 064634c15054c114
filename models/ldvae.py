"""LDVAE: scVI with a linear decoder, in which every latent dimension has a list of genes.

    plate "cells", n = 1 .. N
        l ~ LogNormal(m[b], s[b])                     the size of the cell, similar to others of its batch b
        z ~ Normal(0, I)                              its state
        x ~ NB(l softmax(W (z, d) + c), theta)        its counts

Plate diagram:

        +------------------------------- cells --+
        |  (z) ----> [[x]] <---- (l) <---- b     |  <---- W, c, theta
        |               ^                        |
        |               +------- d               |
        +----------------------------------------+

Adding one to z_j adds W_gj to the log share of gene g, up to a normalisation common to all genes; the columns
of ``Fit.loadings`` are these lists. A rotation of z and W does not change p(x); a ``Laplace`` prior prefers the axes.
The size is a latent, so the evidence is p(x).

Example: W has a column for each of 2 latent dimensions; the other 2 inputs are the indicators d of 2 batches.

    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(batch="batch").read(simulated(cells=20, genes=5))
    >>> LDVAE(latent=2).sized(cells.dims).decoder.heads["rho"]
    Linear(in_features=4, out_features=5, bias=True)

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
