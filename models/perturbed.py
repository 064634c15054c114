"""Perturbed: perturbations, drugs and doses add sparse effects to the log rates of genes.

    E ~ SpikeAndSlab(pi, spike, slab)                   effects of every column of e on every gene
    plate "cells", n = 1 .. N
        z ~ Normal(0, I)                                the state of the cell
        x ~ NB(l softmax(f(z, d) + E e), theta)         its counts, with the perturbations e of the cell

Plate diagram:

        +----------------------- cells --+
        |  (z) ----> [[x]] <---- e, d, l |  <---- (E);  f, theta
        +--------------------------------+

e has one column for each perturbation, ``Perturbation("guide", control="NT")``. It may also have the response to a
dose, ``Dose("dose", drug="drug")``, and interactions, ``Interaction(one, other)``. They are joined by +, and effects
add up. d are properties that change the baseline, such as type and batch. Effects do not depend on z, so an effect that
was seen in some types is predicted in others. ``effects=HorseshoeLoadings()`` shrinks all effects but few large ones.
``fit.effect(cells, given=.., against=..)`` is a counterfactual of the same cells, with intervals, and
``fit.latent(cells, 100, site="E")`` are posterior samples of E. All cells share E: evidence, p(x | l), plugs in its
posterior mean, as it plugs in parameters.

Example: e of a cell under the last of three perturbations.

    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(label="cell_type").read(simulated(cells=20, genes=5))
    >>> Perturbed(latent=2).sized(cells.dims).perturbation(cells.take([int(cells.label.argmax())]))
    tensor([[0., 0., 1.]])

References
    George, E. I. & McCulloch, R. E. (1993) Variable selection via Gibbs sampling. J Am Stat Assoc 88, 881-889.
    doi:10.1080/01621459.1993.10476353
    Ahlmann-Eltze, C. et al. (2025) Deep-learning-based gene perturbation effect prediction does not yet outperform
    simple linear baselines. Nat Methods 22, 1657-1661. doi:10.1038/s41592-025-02772-6
"""

import pyro

from pyroscvi.parts import (
    MLP,
    NB,
    Condition,
    Decoder,
    Likelihood,
    Loadings,
    ObservedSize,
    OneHot,
    Perturbation,
    Prior,
    Size,
    SpikeAndSlab,
    StandardNormal,
)
from pyroscvi.parts.loadings import shifted
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveInt

__all__ = ["Perturbed"]


class Perturbed(Model):
    latent: PositiveInt = 10
    perturbation: Condition = Perturbation("label")
    effects: Loadings = SpikeAndSlab()
    prior: Prior = StandardNormal()
    condition: Condition = OneHot("batch")
    size: Size = ObservedSize()
    decoder: Decoder = MLP()
    likelihood: Likelihood = NB()

    def build(self, dims):
        super().build(dims)
        self.perturbation = self.perturbation.sized(dims)
        self.effects = self.effects.sized(dims.genes, self.perturbation.width, ("rho",), "E")

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            e, d, l = self.perturbation(cells), self.condition(cells), self.size(cells)
            eta = shifted(self.decoder(self.prior(), d), e, self.effects("rho").mT)
            pyro.sample("x", self.likelihood(l, log_theta, **eta), obs=cells.x)
