"""Loadings W: the linear map from the state of a cell to its genes; a parameter, or a latent that all cells share."""

from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyroscvi.parts.shared import Shared, half_cauchy, horseshoe
from pyroscvi.ranges import PositiveFloat

__all__ = ["ARDLoadings", "HorseshoeLoadings", "LaplaceLoadings", "Learned", "Loadings", "NormalLoadings"]


class Loadings(Shared):
    """A slot from the name of a head to its loadings W [g, latent], which have the distribution ``prior()``.

    The site of the head ``rho`` is "W"; that of the head ``gate`` is "W_gate", and so on. A site is one vector of
    g * latent numbers, gene after gene.
    """

    def build(self, genes: int, latent: int, heads: tuple[str, ...]) -> None:
        self.sites = {head: "W" if head == "rho" else f"W_{head}" for head in heads}
        self.latent = latent
        self.register_buffer("loc", torch.zeros(genes * latent))

    def prior(self) -> dist.TorchDistribution:
        """The distribution of all numbers of W, as one vector [g * latent]."""
        raise NotImplementedError

    def of_site(self, site: str) -> Tensor:
        """W of one site, sampled, as one vector [g * latent]."""
        return pyro.sample(site, self.prior())

    def draw(self) -> dict[str, Tensor]:
        return {head: self.of_site(site) for head, site in self.sites.items()}

    def forward(self, head: str) -> Tensor | None:
        return self.now()[head].unflatten(-1, (-1, self.latent))


def shifted(eta: dict[str, Tensor], rows: Tensor, effects: Tensor) -> dict[str, Tensor]:
    """Predictors eta whose log rates rho are shifted by rows [..., n, k] times effects [k, g].

    The effects are latents that cells share, one vector of k * g numbers. Several draws of them have shape
    [..., 1, k * g]: the 1 is the dimension of the plate over cells.
    """
    table = effects.unflatten(-1, (rows.shape[-1], -1))
    return eta | {"rho": eta["rho"] + rows @ (table if table.dim() == 2 else table.squeeze(-3))}


class Learned(Loadings):
    """W is a parameter, which the decoder owns: calling this part returns None."""

    def build(self, genes, latent, heads): ...

    def drawn(self):
        return nullcontext()

    def forward(self, head):
        return None


class NormalLoadings(Loadings):
    """W_gj ~ Normal(0, s)."""

    s: PositiveFloat = 1.0

    def prior(self):
        return dist.Normal(self.loc, self.s).to_event(1)


class LaplaceLoadings(Loadings):
    """W_gj ~ Laplace(0, b): most genes have loadings far from zero on only a few dimensions."""

    b: PositiveFloat = 1.0

    def prior(self):
        return dist.Laplace(self.loc, self.b).to_event(1)


class HorseshoeLoadings(Loadings):
    """W_gj ~ Normal(0, tau c_gj), c_gj ~ HalfCauchy(1): most loadings are near zero, and few are far from it.

    ``tau`` is about the share of loadings that are not near zero. The scales c are the site "W_scale".
    """

    tau: PositiveFloat = 0.1

    def of_site(self, site):
        return horseshoe(site, self.loc, self.tau)


class ARDLoadings(Loadings):
    """W_gj ~ Normal(0, s a_j), a_j ~ HalfCauchy(1): dimensions that are not needed have loadings near zero.

    Automatic relevance determination. The scales a, one for each dimension, are the site "W_scale".
    """

    s: PositiveFloat = 1.0

    def of_site(self, site):
        a = half_cauchy(f"{site}_scale", self.loc[: self.latent])
        scale = a.unsqueeze(-2).expand(*a.shape[:-1], len(self.loc) // self.latent, self.latent).flatten(-2)
        return pyro.sample(site, dist.Normal(self.loc, self.s * scale).to_event(1))
