"""Loadings W: the linear map from the state of a cell to its genes; a parameter, or a latent that all cells share."""

from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyroscvi.parts.shared import Shared, half_cauchy, horseshoe
from pyroscvi.ranges import Fraction, PositiveFloat

__all__ = [
    "ARDLoadings", "HorseshoeLoadings", "LaplaceLoadings", "Learned", "Loadings", "NormalLoadings", "SpikeAndSlab",
]  # fmt: skip


class Loadings(Shared):
    """A slot from the name of a head to its loadings W [g, latent], which have the distribution ``prior()``.

    The site of the head ``rho`` is "W", or another ``name``; that of the head ``gate`` is "W_gate", and so on. A site
    is one vector of g * latent numbers, gene after gene.
    """

    def build(self, genes: int, latent: int, heads: tuple[str, ...], name: str = "W") -> None:
        self.sites = {head: name if head == "rho" else f"{name}_{head}" for head in heads}
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
    """Predictors eta whose log rates rho are shifted by rows [..., n, k] times effects [k, g] that cells share.

    Several draws of the effects have shape [..., 1, k, g]: the 1 is the dimension of the plate over cells.
    """
    return eta | {"rho": eta["rho"] + rows @ (effects if effects.dim() == 2 else effects.squeeze(-3))}


class Learned(Loadings):
    """W is a parameter, which the decoder owns: calling this part returns None."""

    def build(self, genes, latent, heads, name="W"):
        if name != "W":
            raise ValueError(
                f"{name} is a latent and needs a prior, such as SpikeAndSlab() or HorseshoeLoadings(): {self!r}"
            )

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


class SpikeAndSlab(Loadings):
    """W_gj ~ (1 - pi) Normal(0, spike) + pi Normal(0, slab): most are near zero, the others may be large.

    Whether W_gj belongs to the slab is summed out exactly, for each W_gj by itself [George & McCulloch, 1993]. A spike
    of width zero would need a sum over all genes together.

    pi   the share of the slab, before any cell is seen
    """

    pi: Fraction = 0.1
    spike: PositiveFloat = 0.03
    slab: PositiveFloat = 0.7

    def prior(self):
        weights = torch.tensor([1 - self.pi, self.pi]).to(self.loc).expand(*self.loc.shape, 2)
        widths = torch.tensor([self.spike, self.slab]).to(self.loc)
        return RealMixture(dist.Categorical(weights), dist.Normal(0 * weights, widths)).to_event(1)

    def inclusion(self, W: Tensor) -> Tensor:
        """The probability that each of these values belongs to the slab [...]."""
        spike, slab = (dist.Normal(0.0, width).log_prob(W) for width in (self.spike, self.slab))
        return torch.sigmoid(slab - spike + torch.logit(torch.tensor(self.pi)))


class RealMixture(dist.MixtureSameFamily):
    """A mixture on the real line, with the support that guides know."""

    support = constraints.real
