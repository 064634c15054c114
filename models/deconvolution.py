"""Deconvolution: the counts of a spot are those of a few cell types, in proportions.

    plate "cells", n = 1 .. N (a cell is here a spot of tissue, or a bulk sample)
        z ~ pi Normal(0, s) + (1 - pi) Normal(-5, s)          for each type: present, or absent; w = softmax(z)
        x ~ NB(l sum_f w_f g_f, theta)                        its counts, with one signature g_f for each type

Plate diagram:

        +----------------------- cells --+
        |  (z) ----> [[x]] <---- d, l    |  <---- g, theta, pi
        +--------------------------------+

w_f is the proportion of the molecules of a spot that come from type f. Signatures g_f are shares of genes, and come
from annotated cells, or from a fit to them: ``ps.signatures``. ``known`` fixes them; without it they are learned, as in
``Topics``. A spot holds ``Sparse(types=2)`` types on average, and this number is chosen by evidence. The counts depend
on z alone, so presence is summed out exactly, type by type: ``fit.presence(spots)``, beside ``fit.proportions(spots)``.
Any guide serves; the spatial one also reads the neighbours of a spot. The evidence is p(x | l). It is lower if the
signatures lack a type of the tissue. Both technologies are assumed to count genes equally well.

Example: a spot with equal parts of 2 known types.

    >>> import pandas as pd
    >>> from pyroscvi.data import Cells
    >>> spots = Cells(torch.ones(1, 3), genes=("a", "b", "c"))
    >>> g = pd.DataFrame([[0.5, 0.5, 0], [0, 0.5, 0.5]], ["T", "B"], ["a", "b", "c"])
    >>> page = Deconvolution().known(g, spots)
    >>> eta = page.decoder(torch.tensor([[0.5, 0.5]]), torch.zeros(1, 0))
    >>> eta["rho"].exp().round(decimals=3)
    tensor([[0.2500, 0.5000, 0.2500]])

References
    Kleshchevnikov, V. et al. (2022) Cell2location maps fine-grained cell types in spatial transcriptomics. Nature
    Biotechnology 40, 661-671. doi:10.1038/s41587-021-01139-4
"""

from dataclasses import replace

import pyro
import torch

from pyroscvi.parts import NB, Blend, Condition, Decoder, Likelihood, Nothing, ObservedSize, Prior, Size
from pyroscvi.parts.sparse import Sparse
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveInt

__all__ = ["Deconvolution"]


class Deconvolution(Model):
    latent: PositiveInt = 10
    types: tuple[str, ...] = ()
    prior: Prior = Sparse()
    condition: Condition = Nothing()
    size: Size = ObservedSize()
    decoder: Decoder = Blend()
    likelihood: Likelihood = NB()

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            d = self.condition(cells)
            l = self.size(cells)
            w = self.prior()
            eta = self.decoder(w, d)
            pyro.sample("x", self.likelihood(l, log_theta, **eta), obs=cells.x)

    def known(self, signatures, cells):
        """This page sized on these cells, with the signatures of a table, types x genes, which a fit will not change.

        Raises KeyError where the table lacks a gene of the cells.
        """
        names = tuple(map(str, signatures.index))
        page = replace(self, latent=len(names), types=names).sized(cells.dims)
        page.decoder.fix(torch.as_tensor(signatures[list(cells.genes)].to_numpy()))
        return page
