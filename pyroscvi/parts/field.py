"""A prior of cells in tissue: the state of a cell is like the states around it.

    z_n = u(s_n) + e_n,      u_j ~ GP(0, a_j c(distance / r_j)),      e_nj ~ Normal(0, 1 - a_j)

For each dimension j of z there is a smooth field u over the places s of the cells, and a part e of each cell alone. The
strength a_j is the share of the variance that comes from the field. The lengthscale r_j is the distance over which the
field is similar. Both are learned. Each z_n is Normal(0, I) for all a and r. With a = 0 cells are independent, and this
is ``StandardNormal``. A field whose lengthscale is longer than a section is an effect of the section.

The field is summed out: the z of a section are Gaussian with the covariance a c(distance / r) + (1 - a) I. Vecchia's
approximation makes it a product over cells, each given its predecessors (``data.predecessors``). So a minibatch needs
the guide's z of its own cells and of their predecessors, and on average its ELBO is that of the whole tissue.
"""

from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine import block
from torch import Tensor, nn

from pyroscvi.advice import either
from pyroscvi.data.cells import Cells
from pyroscvi.handlers import others_are_given
from pyroscvi.part import Part
from pyroscvi.parts.priors import Prior
from pyroscvi.ranges import Fraction, PositiveFloat

__all__ = ["Field", "Kernel", "Matern12", "Matern32"]

MAX_STRENGTH = 0.99  # below 1, so that covariances can be inverted in single precision
PREDECESSORS = 20  # as many as the docs recommend
DRAWS = 64  # from which the moments of a posterior that is not Gaussian are computed


class Kernel(Part):
    """A slot from distances, divided by a lengthscale, to correlations of the field: 1 at distance 0, then falling."""

    def forward(self, distance: Tensor) -> Tensor:
        raise NotImplementedError


class Matern32(Kernel):
    """c(d) = (1 + sqrt(3) d) exp(-sqrt(3) d): a field with one derivative."""

    def forward(self, distance):
        scaled = 3**0.5 * distance
        return (1 + scaled) * (-scaled).exp()


class Matern12(Kernel):
    """c(d) = exp(-d): a rough field, as for domains with sharp borders."""

    def forward(self, distance):
        return (-distance).exp()


class OfTissue(Prior):
    """A prior under which the state of a cell depends on states around it, which the guide is asked for.

    Sizing a guide on the model connects the prior to the guide; before that, cells are independent. Genes of the other
    cells that were not measured are read as zeros: to fill them in, the model would run within itself.
    """

    strength: Fraction = 0.5

    def build(self, latent):
        super().build(latent)
        if self.strength:
            share = torch.tensor(min(self.strength / MAX_STRENGTH, 1 - 1e-6))
            self.raw_strengths = nn.Parameter(share.logit().repeat(latent))
        object.__setattr__(self, "guide", None)  # not a submodule: its parameters belong to the guide

    @property
    def strengths(self) -> Tensor:
        """How far every dimension depends on the states around a cell, from 0 to 1 [latent]."""
        return MAX_STRENGTH * self.raw_strengths.sigmoid() if self.strength else torch.zeros_like(self.loc)

    def follow(self, guide, cells):
        object.__setattr__(self, "guide", guide)

    def single(self):
        return list(self.parameters())


class Field(OfTissue):
    """z_n = u(s_n) + e_n: a Gaussian process over the tissue, and a part of each cell alone.

    strength     the start of all a_j. 0 is not trained: cells are independent, and a field is compared with this model
    lengthscale  the start of all r_j, in typical distances from a cell to its nearest one

    ``strengths`` are the shares of the variance of every dimension that are the field's. Cells need predecessors:
    ``Fields(spatial="spatial", predecessors=20)``. A cell without coordinates is independent of all others.
    """

    given: ClassVar[str] = "others"

    lengthscale: PositiveFloat = 5.0
    kernel: Kernel = Matern32()

    def build(self, latent):
        super().build(latent)
        if self.strength:
            self.log_lengthscales = nn.Parameter(torch.tensor(self.lengthscale).log().repeat(latent))

    @property
    def lengthscales(self) -> Tensor:
        """The lengthscale of every dimension, in typical distances from a cell to its nearest one [latent]."""
        return self.log_lengthscales.exp() if self.strength else torch.full_like(self.loc, self.lengthscale)

    def begin(self, cells):
        if cells.before is None:
            fields = f"Fields(spatial='spatial', predecessors={PREDECESSORS})"
            remedy = either(fields, f"--spatial spatial --predecessors {PREDECESSORS}")
            raise ValueError(f"{self!r} needs cells that know their predecessors in the tissue: read with {remedy}")

    def forward(self):
        loc, scale = self._moments(vars(self).get("cells"))
        return pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def _moments(self, cells: Cells | None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z given the predecessors [n, latent]."""
        if cells is None or cells.before is None or self.guide is None or not self.strength:
            return self.loc, torch.ones_like(self.loc)
        if not others_are_given():
            weights, variance = self.conditional(cells)
            with block(hide_types=["read"]):  # an intervention on cells does not change their predecessors
                z = self.guide.from_counts(cells.with_predecessors)["z"].rsample()
            return _sums(weights, z[cells.predecessors]), variance.sqrt().T
        moments: Any
        last, moments = vars(self).get("last", (None, None))  # evidence needs the moments of the same cells many times
        if last is not cells:
            weights, variance = self.conditional(cells)
            with block(hide_types=["read"]), torch.no_grad():
                mean, spread = gaussian(self.guide.from_counts(cells.with_predecessors)["z"])
            loc = _sums(weights, mean[cells.predecessors])
            moments = loc, (variance.T + _sums(weights.square(), spread[cells.predecessors])).sqrt()
            object.__setattr__(self, "last", (cells, moments))
        return moments

    def conditional(self, cells: Cells) -> tuple[Tensor, Tensor]:
        """Weights [latent, n, m] and variance [latent, n]: z_nj is Normal(sum_m weights_jnm z_mj, variance_jn)."""
        known, place, apart = around(cells)
        between = (place.unsqueeze(-2) - place.unsqueeze(-3)).square().sum(-1).sqrt()  # [n, m, m]
        a, r = (values.to(apart).view(-1, 1, 1) for values in (self.strengths, self.lengthscales))
        # A predecessor that does not exist is correlated with nothing, so that its weight is 0.
        together = known.unsqueeze(-1) & known.unsqueeze(-2)
        K = torch.where(together, a.unsqueeze(-1) * self.kernel(between / r.unsqueeze(-1)), 0.0)
        K = K - torch.diag_embed(K.diagonal(dim1=-2, dim2=-1)) + torch.eye(K.shape[-1]).to(K)
        k = torch.where(known, a * self.kernel(apart / r), 0.0)
        weights = torch.cholesky_solve(k.unsqueeze(-1), torch.linalg.cholesky(K)).squeeze(-1)
        return weights, (1 - (weights * k).sum(-1)).clamp(min=1e-6)


def around(cells: Cells) -> tuple[Tensor, Tensor, Tensor]:
    """Which predecessors a cell has [n, m], where they lie [n, m, 2 or 3], and how far from the cell [n, m]."""
    places: Any = cells.with_predecessors.places
    everyone = places.nan_to_num()  # nothing depends on an unknown place
    place, own = everyone[cells.predecessors], everyone[: len(cells)].unsqueeze(-2)
    return cells.predecessors >= 0, place, (place - own).square().sum(-1).sqrt()


def _sums(weights: Tensor, z: Tensor) -> Tensor:
    """Weighted sums over predecessors: [latent, n, m] and [n, m, latent] to [n, latent]."""
    return torch.einsum("jnm,nmj->nj", weights, z)


def gaussian(q: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
    """Mean and variance of a posterior [n, latent]; of a flow, those of draws."""
    if not isinstance(q, torch.distributions.TransformedDistribution):
        return q.mean, q.variance
    draws = q.rsample(torch.Size([DRAWS]))
    return draws.mean(0), draws.var(0)
