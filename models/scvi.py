"""scVI: a variational autoencoder for counts, conditioned on batch.

Generative process, where d_n is the design row of cell n and l_n its size:

    plate "cells", n = 1 .. N
        z ~ Normal(0, I)                                          the state of the cell
        x ~ ZINB(l softmax(f_rho(z, d)), theta, f_gate(z, d))     its counts

Plate diagram:

        +----------------------- cells --+
        |  (z) ----> [[x]] <---- d, l    |  <---- f, theta
        +--------------------------------+

The softmax divides the size of a cell among its genes. So f describes which genes the cell expresses, and l how many of
its molecules were sequenced. By default l is the observed total of the cell, and the evidence is p(x | l). With
``size=LatentSize()``, as in the paper, l is a latent and the evidence is p(x).

Example: one state of two numbers, and one count of each gene, for every cell.

    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(batch="batch").read(simulated(cells=20, genes=5))
    >>> trace = pyro.poutine.trace(SCVI(latent=2).sized(cells.dims)).get_trace(cells)
    >>> {name: tuple(trace.nodes[name]["value"].shape) for name in ("z", "x")}
    {'z': (20, 2), 'x': (20, 5)}

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
