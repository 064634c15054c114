"""Topics: a cell is a blend of few programs, each a profile over genes (latent Dirichlet allocation).

    plate "cells", n = 1 .. N
        z ~ Dirichlet(a)                              the proportions of the topics in the cell
        x ~ Poisson(l z B)                            its counts, with one profile B[k] for each topic

Plate diagram:

        +----------------------- cells --+
        |  (z) ----> [[x]] <---- d, l    |  <---- B
        +--------------------------------+

Every row of B, and every z, adds up to one. So topics and their proportions can be read: ``fit.proportions(cells)``
and ``model.decoder.B``. Rates are blended (``Blend``), as in Poisson factorisation; ``decoder=Linear()`` blends log
rates, as ProdLDA does. With the total l given, Poisson counts are multinomial: this is latent Dirichlet allocation,
with a guide that reads a cell. Under ``prior=LogisticNormal(s=2)`` proportions are a Gaussian before a softmax. The
size is the observed total of the cell, and the evidence is p(x | l).

Example: the profiles of 3 topics, and the shares of a cell that has equal parts of all.

    >>> import torch
    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(batch="batch").read(simulated(cells=20, genes=5))
    >>> decoder = Topics(latent=3, condition=Nothing()).sized(cells.dims).decoder
    >>> shares = decoder(torch.full((1, 3), 1 / 3), torch.zeros(1, 0))["rho"].exp()
    >>> torch.allclose(shares, decoder.B.mean(0))
    True

References
    Blei, D. M., Ng, A. Y. & Jordan, M. I. (2003) Latent Dirichlet allocation. J Mach Learn Res 3, 993-1022.
    Carbonetto, P. et al. (2023) GoM DE: interpreting structure in sequence count data with differential expression
    analysis allowing for grades of membership. Genome Biology 24, 236. doi:10.1186/s13059-023-03067-9
"""

import pyro

from pyroscvi.parts import Blend, Condition, Decoder, Dirichlet, Likelihood, Nothing, ObservedSize, Poisson, Prior, Size
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveInt

__all__ = ["Topics"]


class Topics(Model):
    latent: PositiveInt = 10
    prior: Prior = Dirichlet()
    condition: Condition = Nothing()
    size: Size = ObservedSize()
    decoder: Decoder = Blend()
    likelihood: Likelihood = Poisson()

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            d = self.condition(cells)
            l = self.size(cells)
            z = self.prior()
            eta = self.decoder(z, d)
            pyro.sample("x", self.likelihood(l, log_theta, **eta), obs=cells.x)
