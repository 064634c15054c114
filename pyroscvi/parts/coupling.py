"""What the counts of nearby cells say of the domain of a cell."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.poutine import block, condition
from scipy import sparse
from torch import Tensor, nn

from pyroscvi.data.cells import Cells
from pyroscvi.handlers import of_measured
from pyroscvi.part import Part
from pyroscvi.parts.clusters import set_to_clusters
from pyroscvi.parts.field import MAX_STRENGTH, Kernel, Matern12, around
from pyroscvi.ranges import Fraction, PositiveFloat

__all__ = ["Coupling"]

SMALL = 0.01  # added to shares of types, so that a domain may have every type
CELLS = 1024  # at once, before a fit


class Coupling(Part):
    """A cell at distance d has the same domain with probability c(d) = a kernel(d / r); otherwise it has any.

    strength     where a starts; 0 stays 0: cells are independent
    lengthscale  where r starts, in typical distances from a cell to its nearest one

    Given the domain t of a cell, its predecessors m are taken as independent of each other. So their counts change the
    odds of t by the product over m of 1 + c_m (p(x_m | t) / p(x_m) - 1).
    """

    given: ClassVar[str] = "others"

    strength: Fraction = 0.5
    lengthscale: PositiveFloat = 5.0
    kernel: Kernel = Matern12()

    def build(self):
        if self.strength:
            share = torch.tensor(min(self.strength / MAX_STRENGTH, 1 - 1e-6))
            self.raw_a = nn.Parameter(share.logit())
            self.log_r = nn.Parameter(torch.tensor(self.lengthscale).log())

    def single(self):
        return [self.raw_a, self.log_r] if self.strength else []

    def same(self, distance: Tensor) -> Tensor:
        """c(d), for distances in typical distances from a cell to its nearest one."""
        return MAX_STRENGTH * self.raw_a.sigmoid() * self.kernel(distance / self.log_r.exp())

    def forward(self, cells: Cells, log_ratio: Callable[[Cells], Tensor]) -> Tensor | float:
        """What predecessors add to the log-odds of every domain [n, domains]; ``log_ratio`` is of every cell."""
        if not self.strength or cells.before is None:
            return 0.0
        known, _, distance = around(cells)
        ratio = log_ratio(cells.with_predecessors).exp()[cells.predecessors]
        return (torch.where(known, self.same(distance), 0.0).unsqueeze(-1) * (ratio - 1)).log1p().sum(-2)


def log_p_given(page: Any, cells: Cells, log_theta: Tensor | None = None) -> Tensor:
    """log p(x | k) of every type [kinds, n] under a page with a linear decoder of types.

    A size that is latent, and so unknown for neighbours, is taken as the total. Interventions change only the cells
    that they are about, and not their neighbours.
    """
    known = {"l": cells.library} | ({} if log_theta is None else {"theta": log_theta.exp()})
    with block(hide_types=["read", "sample", "observe"]), condition(data=known):
        d, l = page.condition(cells), page.size(cells)
        eta = page.decoder(torch.eye(page.kinds).to(cells.x).unsqueeze(1), d)
        x = page.likelihood(l, page.likelihood.dispersion(cells), **eta)
    return of_measured(x, cells.measured, l if page.size.given else None).log_prob(cells.x)


def log_ratio(w: Tensor, log_pi: Tensor, log_p: Tensor) -> Tensor:
    """log p(x | t) - log p(x) [n, domains], from log p(x | k) [kinds, n]."""
    of_domain = (log_pi.log_softmax(-1) + log_p.T.unsqueeze(-2)).logsumexp(-1)
    return of_domain - (w.log_softmax(-1) + of_domain).logsumexp(-1, keepdim=True)


@torch.no_grad()
def start_at_neighbourhoods(w: Tensor, log_pi: Tensor, cells: Cells, shares: Callable[[Cells], Tensor]) -> None:
    """Set the types of domains to those of k-means clusters of neighbourhoods: cells, and those before and after them.

    shares   probabilities of the types of some cells [n, kinds]
    """
    if cells.before is None:
        return
    own = torch.cat([shares(some) for some in cells.minibatches(CELLS, hops=0)]).cpu().double().numpy()
    near = sparse.csr_matrix(cells.before + cells.before.T + sparse.identity(cells.before.shape[0]))[: len(own)]
    mixed = near[:, : len(own)] @ own / near.sum(1).reshape(-1, 1)
    means = log_pi.softmax(-1)
    set_to_clusters(w, means, torch.zeros_like(means), torch.as_tensor(mixed).to(means))
    log_pi.copy_((means + SMALL).log())
