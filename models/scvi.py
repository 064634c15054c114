"""scVI: a variational autoencoder for counts, conditioned on batch.

Generative process, with d_n the design row of cell n and l_n its size:

    plate "cells", n = 1 .. N
        z ~ Normal(0, I)                                          the state of the cell
        x ~ ZINB(l softmax(f_rho(z, d)), theta, f_gate(z, d))     its counts

Plate diagram:

        +----------------------- cells --+
        |  (z) ----> [[x]] <---- d, l    |  <---- f, theta
        +--------------------------------+

The softmax shares the size of a cell out among its genes, so that f says what a cell makes and l how much of it was
sequenced. The size is the observed total of the cell unless another part is named, and the evidence is then p(x | l);
``size=LatentSize()`` makes it a latent, as in the paper, and the evidence p(x).

References
    Lopez, R. et al. (2018) Deep generative modeling for single-cell transcriptomics. Nature Methods 15, 1053-1058.
    doi:10.1038/s41592-018-0229-2
"""

import pyro

from pyroscvi.parts import MLP, ZINB, Condition, Decoder, Likelihood, ObservedSize, OneHot, Prior, Size, StandardNormal
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveInt

__all__ = ["SCVI"]


class SCVI(Model):
    latent: PositiveInt = 10
    prior: Prior = StandardNormal()
    condition: Condition = OneHot("batch")
    size: Size = ObservedSize()
    decoder: Decoder = MLP()
    likelihood: Likelihood = ZINB()

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            d = self.condition(cells)
            l = self.size(cells)
            z = self.prior()
            eta = self.decoder(z, d)
            pyro.sample("x", self.likelihood(l, log_theta, **eta), obs=cells.x)
