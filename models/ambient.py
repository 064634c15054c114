"""Ambient: part of the counts of a droplet is not from its cell, but from molecules that float in the liquid.

    plate "cells", n = 1 .. N
        z ~ Normal(0, I)                                              the state of the cell
        c ~ Beta(40 m, 40 (1 - m))                                    the share of its counts that is ambient
        x ~ NB(l ((1 - c) softmax(f(z, d)) + c a), theta)             its counts, with the ambient profile a

Plate diagram:

        +------------------------------- cells --+
        |  (z) ----> [[x]] <---- (c)    d, l     |  <---- f, theta, a, m
        +----------------------------------------+

``known`` takes a and the mean total of empty droplets (``ps.data.ambient``). Then m = total / l: a droplet has as many
ambient counts as an empty one. Without it a is the average of all cells and m is 0.05. Counts identify differences of
c between cells of one state, if a is not such a state itself, and an upper bound: c a is at most what each gene has.
They do not identify the mean of c, as f may contain what all cells have in common. That mean follows m: it is measured
with empty droplets, and assumed without them. ``fit.decontaminated(cells)`` returns the expected counts of the cell
itself. The evidence is p(x | l).

Example: a cell with a fifth of ambient counts.

    >>> from pyroscvi.data import Fields, simulated
    >>> page = Ambient(latent=2).sized(Fields().read(simulated(cells=20, genes=4)).dims)
    >>> own, ambient = page.sources(torch.zeros(1, 4), torch.tensor([[0.2]]))
    >>> own.tolist(), round(ambient.sum().item(), 3)
    ([[0.20000000298023224, 0.20000000298023224, 0.20000000298023224, 0.20000000298023224]], 0.2)

References
    Fleming, S. J. et al. (2023) Unsupervised removal of systematic background noise from droplet-based single-cell
    experiments using CellBender. Nature Methods 20, 1323-1335. doi:10.1038/s41592-023-01943-7
"""

import pyro
import pyro.distributions as dist
import torch

from pyroscvi.parts import MLP, NB, Condition, Decoder, Likelihood, ObservedSize, OneHot, Prior, Size, StandardNormal
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveFloat, PositiveInt

__all__ = ["Ambient"]


class Ambient(Model):
    latent: PositiveInt = 10
    assumed: PositiveFloat = 0.05  # m without empty droplets
    prior: Prior = StandardNormal()
    condition: Condition = OneHot("batch")
    size: Size = ObservedSize()
    decoder: Decoder = MLP()
    likelihood: Likelihood = NB()

    def build(self, dims):
        super().build(dims)
        self.register_buffer("a", dims.average())
        self.register_buffer("total", torch.zeros(()))  # of an empty droplet; 0: not known

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            d = self.condition(cells)
            l = self.size(cells)
            z = self.prior()
            m = torch.where(self.total > 0, self.total / l, self.assumed).clamp(1e-3, 0.9)
            c = pyro.sample("c", dist.Beta(40 * m, 40 * (1 - m)).to_event(1))
            eta = self.decoder(z, d)
            shares = sum(self.sources(eta.pop("rho"), c))
            pyro.sample("x", self.likelihood(l, log_theta, rho=shares.log(), **eta), obs=cells.x)

    def sources(self, rho, c, cells=None):
        """Shares of the counts of a droplet that are of the cell, and that are ambient [..., g] each."""
        return (1 - c) * rho.softmax(-1), c * self.a

    def known(self, ambient, total, cells):
        """This page sized on these cells, with the ambient profile (a Series by gene) and total of empty droplets."""
        page = self.sized(cells.dims)
        a = torch.as_tensor(ambient[list(cells.genes)].to_numpy()).clamp(min=1e-10)
        page.a, page.total = (a / a.sum()).to(page.a), torch.tensor(float(total))
        return page
