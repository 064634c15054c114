"""A conditional autoregression: the state of a cell is like the states of its neighbours on the graph.

    z_j ~ Normal(0, Q_j^-1),      Q_j = (1 - a_j) I + a_j (D - W) / d

W has a 1 for every pair of neighbours, D the number of neighbours of every cell, and d is the mean of these numbers.
So z_n given its neighbours is Normal: its mean is the sum of their states times a / (d q), and its precision is
q = 1 - a + a D / d. With strength a = 0 cells are independent, and this is ``StandardNormal``. A cell without
neighbours is Normal(0, 1). There is no lengthscale: a alone says how far states stay alike.

The density is proper, and minibatches are exact: z' Q z is a sum over cells, each with its neighbours, and the
determinant of Q depends on the graph and on a only. Before a fit it is computed at a few strengths, by a sparse
factorisation, and interpolated between them.

References
    Besag, J. (1974) Spatial interaction and the statistical analysis of lattice systems. J R Stat Soc B 36, 192-236.
    doi:10.1111/j.2517-6161.1974.tb00999.x
    Leroux, B. G. et al. (2000) Estimation of disease rates in small areas. IMA Vol Math Appl 116, 179-191.
    doi:10.1007/978-1-4612-1284-3_4
"""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.poutine import block
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from pyroscvi.advice import either
from pyroscvi.data.cells import Cells
from pyroscvi.distributions.offset import Offset
from pyroscvi.handlers import others_are_given
from pyroscvi.parts.field import MAX_STRENGTH, OfTissue, gaussian

__all__ = ["CAR"]

NODES = 20  # strengths at which the determinant is computed; between them it is then known to 1e-7


class CAR(OfTissue):
    """z_n given its neighbours is Normal, with a mean in proportion to the sum of their states.

    strength   the start of all a_j. 0 is not trained: cells are independent, and a CAR is compared with this model

    Cells need a graph of mutual neighbours: ``Fields(spatial="spatial", graph=Delaunay())``. In evidence, a cell is
    given all its neighbours, with their posteriors averaged over.
    """

    hops = 1
    given: ClassVar[str] = "neighbours"

    def build(self, latent):
        super().build(latent)
        self.register_buffer("degree", torch.ones(()))
        self.register_buffer("log_det", torch.zeros(NODES))  # of Q, a cell, at every strength

    def begin(self, cells):
        if cells.graph is None or not cells.graph.nnz:
            remedy = either("Fields(spatial='spatial', graph=Delaunay())", "--spatial spatial --graph delaunay")
            raise ValueError(f"{self!r} needs cells with a graph of neighbours: read with {remedy}")
        W = (cells.graph[: len(cells), : len(cells)] != 0).astype(np.float64)
        if (W != W.T).nnz:
            remedy = either("Delaunay() or Radius(...)", "--graph delaunay or --graph radius:...")
            raise ValueError(
                f"{self!r} needs neighbours that are mutual, and some of this graph are not: take {remedy}"
            )
        many = np.asarray(W.sum(1)).ravel()
        degree = many[many > 0].mean()
        self.degree.fill_(degree)
        for i, a in enumerate(_strengths()):
            q = np.where(many > 0, 1 - a + a * many / degree, 1.0)
            Q = sparse.csc_matrix(sparse.diags_array(q) - a / degree * W)
            factors = splu(Q, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
            self.log_det[i] = np.log(np.abs(factors.U.diagonal())).sum() / len(many)

    def forward(self):
        cells = vars(self).get("cells")
        if cells is None or cells.graph is None or self.guide is None or not self.strength:
            return pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
        with block(hide_types=["read"]):  # an intervention on cells does not change their neighbours
            everyone = replace(cells.with_halo, graph=cells.graph, hops=cells.hops)
            vars(everyone).update(edges=cells.edges, distances=cells.distances)
            posterior = self.guide.from_counts(everyone)["z"]
        if not others_are_given():
            return pyro.sample("z", self.jointly(cells, posterior.rsample()))
        mean, variance = gaussian(posterior)
        loc, q, weight = self.conditional(cells, mean)
        spread = weight.square() * neighbour_sums(cells, variance)
        return pyro.sample("z", dist.Normal(loc, (1 / q + spread).sqrt()).to_event(1))

    def conditional(self, cells: Cells, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and precision of z_n given its neighbours [n, latent], and the weight of their sum in the mean.

        z   states of these cells and of their neighbours in the halo [n + h, latent]
        """
        _, target = cells.edges
        many = torch.zeros(len(z), 1).to(z).index_add(0, target, torch.ones(len(target), 1).to(z))[: len(cells)]
        a = self.strengths
        q = torch.where(many > 0, 1 - a + a * many / self.degree, 1.0)
        weight = a / (self.degree * q)
        return weight * neighbour_sums(cells, z), q, weight

    def jointly(self, cells: Cells, z: Tensor) -> Offset:
        """A factor of every cell, whose product over all cells is the density of all states.

        -q z^2 / 2 + q z loc / 2 is the exponent of Normal(loc / 2, 1 / q), without what does not depend on the own z.
        """
        loc, q, _ = self.conditional(cells, z)
        offset = q * loc.square() / 8 - q.log() / 2 + self.log_determinant() / 2
        half, drawn = (dist.Normal(mean, q.rsqrt()).to_event(1) for mean in (loc / 2, loc))
        return Offset(half, offset.sum(-1), drawn)

    def log_determinant(self) -> Tensor:
        """log det Q_j, a cell [latent]: the polynomial through the values at ``NODES`` strengths."""
        x = _place(self.strengths).unsqueeze(-1)
        at = _nodes().to(x)
        others = ~torch.eye(NODES, dtype=torch.bool, device=x.device)
        top = torch.where(others, (x - at).unsqueeze(-2), 1.0).prod(-1)
        bottom = torch.where(others, at.unsqueeze(-1) - at, 1.0).prod(-1)
        return (top / bottom * self.log_det).sum(-1)


def _nodes() -> Tensor:
    """Chebyshev nodes between -1 and 1."""
    return torch.cos(torch.pi * (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES)


def _place(a: Tensor) -> Tensor:
    """Strengths between 0 and ``MAX_STRENGTH`` as numbers between -1 and 1, by the logarithm of 1 - a."""
    return 2 * (1 - a).log() / torch.tensor(1 - MAX_STRENGTH).log() - 1


def _strengths() -> np.ndarray:
    """The strengths at the nodes."""
    return (1 - (1 - MAX_STRENGTH) ** ((_nodes() + 1) / 2)).numpy()


def neighbour_sums(cells: Cells, z: Tensor) -> Tensor:
    """The sum of z [n + h, latent] over the neighbours of every cell [n, latent]."""
    source, target = cells.edges
    return torch.zeros_like(z).index_add(0, target, z[source])[: len(cells)]
