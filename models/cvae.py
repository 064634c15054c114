"""CVAE: counts given the conditions of a cell, such as its type, its perturbation and its experiment.

    plate "cells", n = 1 .. N
        z ~ Normal(0, I)                                  the variation that the conditions do not explain
        x ~ NB(l softmax(f(z, d)), theta)                 its counts

Plate diagram:

        +------------------------------- cells --+
        |  (z) ----> [[x]] <---- d <---- c       |  <---- f, theta
        |               ^                        |
        |               +------- l               |
        +----------------------------------------+

The design row d is made of any number of categories c, one-hot or embedded:

    CVAE(condition=Embedding("label", 32) + Embedding("perturbation", 32) + OneHot("batch"))

Conditions are not sampled but read, and a handler can change what is read. ``Fit.generate(cells,
given={"perturbation": "control"})`` sets a condition: the same cell under another condition. ``Fit.probabilities(cells,
"perturbation")`` makes it a latent and sums over its levels: by Bayes' rule, how probable is each level for a cell?
The evidence is p(x | l), also given the conditions.

Example: the design row of a cell, after its label is set to the third.

    >>> from pyroscvi.data import Fields, simulated
    >>> from pyroscvi.handlers import intervene
    >>> cells = Fields(label="cell_type").read(simulated(cells=20, genes=5, types=3))
    >>> with intervene(label=2):
    ...     CVAE(condition=OneHot("label")).sized(cells.dims).condition(cells)[0]
    tensor([0., 0., 1.])

References
    Sohn, K. et al. (2015) Learning structured output representation using deep conditional generative models. NeurIPS.
    Lotfollahi, M. et al. (2019) scGen predicts single-cell perturbation responses. Nature Methods 16, 715-721.
    doi:10.1038/s41592-019-0494-8
"""

import pyro

from pyroscvi.parts import MLP, NB, Condition, Decoder, Likelihood, ObservedSize, OneHot, Prior, Size, StandardNormal
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveInt

__all__ = ["CVAE"]


class CVAE(Model):
    latent: PositiveInt = 10
    prior: Prior = StandardNormal()
    condition: Condition = OneHot("label") + OneHot("batch")
    size: Size = ObservedSize()
    decoder: Decoder = MLP(everywhere=True)
    likelihood: Likelihood = NB()

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            d = self.condition(cells)
            l = self.size(cells)
            z = self.prior()
            eta = self.decoder(z, d)
            pyro.sample("x", self.likelihood(l, log_theta, **eta), obs=cells.x)
