"""Loadings: W, the map of a linear decoder from the state of a cell to its genes; learnt, or a latent with a prior.

All cells share it. A latent of this kind is drawn before the plate over cells is entered, which the model that the part
belongs to sees to: a page may ask for its decoder inside the plate, as all of them do.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyroscvi.part import Part

__all__ = ["LaplaceLoadings", "Learned", "Loadings", "NormalLoadings"]


class Loadings(Part):
    """A slot from the name of a head to its loadings W [g, latent], of which ``prior`` says how they are distributed.

    The site of the head ``rho`` is "W", of another "W_gate" and so on: vectors of g * latent numbers, gene by gene.
    """

    def build(self, genes: int, latent: int, heads: tuple[str, ...]) -> None:
        self.sites = {head: "W" if head == "rho" else f"W_{head}" for head in heads}
        self.latent = latent
        self.register_buffer("loc", torch.zeros(genes * latent))

    def prior(self) -> dist.TorchDistribution:
        """Of all numbers of W, as one vector."""
        raise NotImplementedError

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Have a draw of W at hand, as long as this block lasts; to be entered outside the plate over cells."""
        values = {head: pyro.sample(site, self.prior()) for head, site in self.sites.items()}
        # Not a buffer, and gone when the model has run: a graph of gradients is neither to be saved nor copied.
        object.__setattr__(self, "values", values)
        try:
            yield
        finally:
            object.__delattr__(self, "values")

    def forward(self, head: str) -> Tensor | None:
        if "values" not in vars(self):
            raise RuntimeError(f"{self!r} has no value outside a run of its model: ask fit.latent(cells, site='W')")
        return self.values[head].unflatten(-1, (-1, self.latent))


class Learned(Loadings):
    """W is a parameter, which the decoder has: None is what it is told."""

    def build(self, genes, latent, heads): ...

    @contextmanager
    def drawn(self):
        yield

    def forward(self, head):
        return None


class NormalLoadings(Loadings):
    """W_gj ~ Normal(0, s)."""

    s: float = 1.0

    def prior(self):
        return dist.Normal(self.loc, self.s).to_event(1)


class LaplaceLoadings(Loadings):
    """W_gj ~ Laplace(0, b): most genes load on few dimensions."""

    b: float = 1.0

    def prior(self):
        return dist.Laplace(self.loc, self.b).to_event(1)
