"""Spillover: a share of the counts of a cell comes from its neighbours in the tissue, and from the background.

    plate "cells", n = 1 .. N
        z ~ Normal(0, I)                                             the state of the cell
        c ~ Normal(m, 0.5)                                           log-odds of foreign shares: s = softmax(0, c)
        x ~ NB(l (s_0 softmax(f(z, d)) + s_1 y + s_2 b), theta)      its counts

Plate diagram:

        +------------------------------------------ cells --+
        |  [[x of neighbours]] -> [[x]] <- (z), (c)   d, l  |  <---- f, theta, m, b
        +---------------------------------------------------+

Molecules diffuse, and borders of cells are drawn wrongly. y is the profile of the counts of all neighbours together,
b that of all cells. A cell without neighbours keeps their share. m is learned; a share that starts at 0 stays 0, and
with both at 0 this is ``SCVI``. Shares are identified where neighbours are of other types than the cell.
``fit.decontaminated(cells)`` returns expected counts of the cell itself. The counts of neighbours are given: the
evidence is p(x | l, neighbours), of one cell. A neighbour is also given this cell, so that the product over cells is no
density of a tissue. Compare with ``Spillover(neighbours=0, background=0)``.

Example: the shares of the counts that are of the cell itself, and of the others.

    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(spatial="spatial").read(simulated(cells=20, genes=4, sections=1))
    >>> page = Spillover(neighbours=0.1, background=0.2).sized(cells.dims)
    >>> [round(part[0].sum().item(), 3) for part in page.sources(torch.zeros(20, 4), page.m, cells)]
    [0.7, 0.3]

References
    Ergen, C. & Yosef, N. (2025) ResolVI (spatial transcriptomics). bioRxiv. doi:10.1101/2025.01.20.634005
"""

import pyro
import pyro.distributions as dist
import torch

from pyroscvi.parts import MLP, NB, Condition, Decoder, Likelihood, ObservedSize, OneHot, Prior, Size, StandardNormal
from pyroscvi.program import Model
from pyroscvi.ranges import Fraction, PositiveInt

__all__ = ["Spillover"]


class Spillover(Model):
    hops = 1
    given = "neighbours"

    latent: PositiveInt = 10
    neighbours: Fraction = 0.1
    background: Fraction = 0.02
    prior: Prior = StandardNormal()
    condition: Condition = OneHot("batch")
    size: Size = ObservedSize()
    decoder: Decoder = MLP()
    likelihood: Likelihood = NB()

    def build(self, dims):
        super().build(dims)
        if self.neighbours + self.background >= 1:
            raise ValueError(f"shares of {self.neighbours} and {self.background} leave no counts to the cell itself")
        shares = torch.tensor([share for share in (self.neighbours, self.background) if share])
        self.m = torch.nn.Parameter((shares / (1 - shares.sum())).log())
        self.register_buffer("b", dims.average())

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            d, l = self.condition(cells), self.size(cells)
            eta = self.decoder(self.prior(), d)
            if len(self.m):
                c = pyro.sample("c", dist.Normal(self.m, 0.5).to_event(1))
                eta["rho"] = sum(self.sources(eta["rho"], c, cells)).log()
            pyro.sample("x", self.likelihood(l, log_theta, **eta), obs=cells.x)

    def sources(self, rho, c, cells):
        """Shares of the counts that are of the cell itself, and that are foreign [..., g] each."""
        own, y = rho.softmax(-1), cells.neighbour_profile
        foreign = [torch.where(y.isnan(), own, y)][: self.neighbours > 0] + [self.b][: self.background > 0]
        s = torch.nn.functional.pad(c, (1, 0)).softmax(-1).split(1, -1)
        return s[0] * own, sum(share * profile for share, profile in zip(s[1:], foreign, strict=True))
