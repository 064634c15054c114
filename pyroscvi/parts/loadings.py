"""Loadings W: the linear map from the state of a cell to its genes; a parameter, or a latent with a prior.

All cells share W. If W is a latent, ``Model`` samples it before a page enters the plate over cells. So a page may call
its decoder inside the plate, as all pages do.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyroscvi.part import Part
from pyroscvi.ranges import PositiveFloat

__all__ = ["LaplaceLoadings", "Learned", "Loadings", "NormalLoadings"]


class Loadings(Part):
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

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Sample W and keep it for the duration of this block, which must be entered outside the plate over cells."""
        values = {head: pyro.sample(site, self.prior()) for head, site in self.sites.items()}
        # Not a buffer, and deleted after the run: these tensors hold a gradient graph, which cannot be saved or copied.
        object.__setattr__(self, "values", values)
        try:
            yield
        finally:
            object.__delattr__(self, "values")

    def forward(self, head: str) -> Tensor | None:
        if "values" not in vars(self):
            raise RuntimeError(f"{self!r} has a value only while its model runs: use fit.latent(cells, site='W')")
        return self.values[head].unflatten(-1, (-1, self.latent))


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

    @contextmanager
    def drawn(self):
        yield

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
