"""Proteins: RNA and surface proteins of the same cells, where a protein is background or foreground.

    plate "cells", n = 1 .. N
        z ~ Normal(0, I)                                              the state of the cell
        x ~ NB(l softmax(f(z, d)), theta)                             its counts of genes
        proteins ~ pi NB(b exp(a), theta_f) + (1 - pi) NB(b, theta_b) its counts of proteins

Plate diagram:

        +------------------------------ cells --+
        |  (z) ----> [[x]] <---- d, l           |  <---- f, theta
        |   +-----> [[proteins]] <---- d        |  <---- f_a, f_pi, b, theta_f, theta_b
        +---------------------------------------+

The antibody of a protein also sticks to cells without it: b = exp(V d + c) counts of background. Foreground is exp(a)
times as much, with a = softplus(f_a(z, d) + c_a) above 0, and has probability pi = sigmoid(f_pi(z, d)). The sum over
both is exact, protein by protein. A protein that was not measured is NaN and has probability one, so that data sets
with and without proteins are one model: ``fit.proteins(cells, given={"batch": ...})`` predicts them from RNA. The guide
reads both. The evidence is p(x, proteins | l); in totalVI, b is also a latent of the cell.

Example: log p of the proteins of a cell is 0 if none was measured.

    >>> import torch
    >>> from pyroscvi.data import Cells
    >>> counted, not_measured = [3.0, 90.0], [float("nan"), float("nan")]
    >>> cells = Cells(torch.ones(2, 5), proteins=torch.tensor([counted, not_measured]))
    >>> trace = pyro.poutine.trace(Proteins(latent=2).sized(cells.dims)).get_trace(cells)
    >>> (trace.nodes["proteins"]["fn"].log_prob(cells.proteins) == 0).tolist()
    [False, True]

References
    Gayoso, A. et al. (2021) Joint probabilistic modeling of single-cell multi-omic data with totalVI. Nature Methods
    18, 272-282. doi:10.1038/s41592-020-01050-x
"""

import pyro

from pyroscvi.parts import MLP, NB, Condition, Decoder, Likelihood, ObservedSize, OneHot, Prior, Size, StandardNormal
from pyroscvi.parts.surface import Surface
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveInt

__all__ = ["Proteins"]


class Proteins(Model):
    observes = "x, proteins"

    latent: PositiveInt = 10
    prior: Prior = StandardNormal()
    condition: Condition = OneHot("batch")
    size: Size = ObservedSize()
    decoder: Decoder = MLP()
    likelihood: Likelihood = NB()
    surface: Surface = Surface()

    def build(self, dims):
        super().build(dims)
        self.surface = self.surface.sized(dims, self.latent, self.condition.width)

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            d = self.condition(cells)
            l = self.size(cells)
            z = self.prior()
            pyro.sample("x", self.likelihood(l, log_theta, **self.decoder(z, d)), obs=cells.x)
            pyro.sample("proteins", self.surface(z, d), obs=cells.protein_counts(self.surface.proteins))
