"""Likelihoods p(x | l, eta): from the size l of a cell, its dispersion and the linear predictors eta of the decoder.

A likelihood names the heads that it needs from the decoder, applies its own links to them, and returns a distribution
over the whole count vector of a cell. A page samples the dispersion outside the plate, because it may be a latent that
all cells share:

    log_theta = self.likelihood.dispersion(cells)
    with cells.plate():
        ...
        pyro.sample("x", self.likelihood(l, log_theta, **eta), obs=cells.x)
"""

from typing import ClassVar

import torch
from torch.nn.functional import softplus

from pyroscvi import distributions
from pyroscvi.data.cells import Dims
from pyroscvi.part import Part
from pyroscvi.parts.dispersions import Dispersion, Equidispersed, PerGene
from pyroscvi.parts.links import Link, Softmax

__all__ = ["NB", "ZINB", "ZIP", "Likelihood", "Log1pNormal", "Normal", "Poisson"]


class Likelihood(Part):
    """A slot: ``(l, log_theta, **eta)``, size [..., 1], dispersion and predictors [..., g], to a distribution over [g].

    ``dispersion`` returns log theta, [g] or [n, g]; or None if there is no dispersion or the decoder predicts it.
    """

    needs: ClassVar[tuple[str, ...]] = ("rho",)  # heads besides those of the dispersion
    of_counts: ClassVar[bool] = True  # whether x are counts, whose means depend on the size of a cell

    @property
    def heads(self) -> tuple[str, ...]:
        return (*self.needs, *self.dispersion.heads)

    def build(self, dims: Dims) -> None: ...


class Poisson(Likelihood):
    """x_ng ~ Poisson(mu_ng)."""

    dispersion: ClassVar[Dispersion] = Equidispersed()
    link: Link = Softmax()

    def forward(self, l, log_theta, *, rho):
        return distributions.Poisson(self.link(l.log(), rho))


class ZIP(Poisson):
    """x_ng = 0 with probability sigmoid(gate_ng), otherwise x_ng ~ Poisson(mu_ng)."""

    needs: ClassVar[tuple[str, ...]] = ("rho", "gate")

    def forward(self, l, log_theta, *, rho, gate):  # type: ignore[override]
        return distributions.ZeroInflatedPoisson(self.link(l.log(), rho), gate)


class NB(Likelihood):
    """x_ng ~ NB(mu_ng, theta): mean mu, variance mu + mu^2 / theta."""

    dispersion: Dispersion = PerGene()
    link: Link = Softmax()

    def build(self, dims):
        self.dispersion = self.dispersion.sized(dims)

    def forward(self, l, log_theta, *, rho, theta=None):
        return distributions.NegativeBinomial(self.link(l.log(), rho), theta if log_theta is None else log_theta)


class ZINB(NB):
    """x_ng = 0 with probability sigmoid(gate_ng), otherwise x_ng ~ NB(mu_ng, theta)."""

    needs: ClassVar[tuple[str, ...]] = ("rho", "gate")

    def forward(self, l, log_theta, *, rho, gate, theta=None):  # type: ignore[override]
        log_theta = theta if log_theta is None else log_theta
        return distributions.ZeroInflatedNegativeBinomial(self.link(l.log(), rho), log_theta, gate)


class Log1pNormal(NB):
    """log(1 + x_ng) ~ Normal(log(1 + mu_ng), theta): a density of log(1 + x), with standard deviation theta."""

    def forward(self, l, log_theta, *, rho, theta=None):
        log_theta = theta if log_theta is None else log_theta
        log_mu = self.link(l.log(), rho)
        shares = isinstance(log_mu, distributions.Shares)
        return distributions.Log1pNormal(log_mu if shares else softplus(log_mu), log_theta)  # softplus: log(1 + mu)


class Normal(Likelihood):
    """x_ng ~ Normal(m_g + eta_ng, theta_g): values that are not counts, whose size is not used.

    m_g is the mean of the gene in the cells of training, and theta the standard deviation. The evidence is a density of
    the values, and depends on their units: it is never compared with that of counts.
    """

    of_counts: ClassVar[bool] = False

    dispersion: Dispersion = PerGene()

    def build(self, dims):
        self.dispersion = self.dispersion.sized(dims)
        self.register_buffer("m", torch.zeros(dims.genes) if dims.mean is None else dims.mean.clone())

    def forward(self, l, log_theta, *, rho, theta=None):
        return distributions.NormalValues(self.m + rho, theta if log_theta is None else log_theta)
