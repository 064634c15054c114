"""Low rank: given its counts, the latents of a cell are correlated along a few directions.

    h = f(log(1 + x))
    q(z | x) = Normal(mu(h), diag(sigma(h)^2) + U(h) U(h)'),   U with ``rank`` columns

This is between mean field (rank 0) and full covariance. The last layer of the encoder has size latent x (2 + rank), not
about latent^2 / 2: this matters for tens of latent dimensions, and for shared latents with one dimension a gene.

Example: mu, sigma and one column of U have 40 numbers each; a full covariance would take 860 in all.

    >>> from pyroscvi.models import SCVI
    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(batch="batch").read(simulated(cells=20, genes=5))
    >>> LowRank(rank=1).sized(SCVI(latent=40).sized(cells.dims), cells).heads["z"].out_features
    120

References
    Ong, V. M.-H. et al. (2018) Gaussian variational approximation with a factor covariance structure. J Comput Graph
    Stat 27, 465-478. doi:10.1080/10618600.2017.1390472
"""

import pyro.distributions as dist
from torch import nn
from torch.nn.functional import softplus

from pyroscvi.program import Guide
from pyroscvi.ranges import PositiveInt

__all__ = ["LowRank"]


class LowRank(Guide):
    rank: PositiveInt = 2

    def head(self, width, size):
        return nn.Linear(width, size * (2 + self.rank))

    def posterior(self, parameters):
        size = parameters.shape[-1] // (2 + self.rank)
        mu, raw_sigma, U = parameters.split([size, size, size * self.rank], -1)
        variance = (softplus(raw_sigma) + 1e-4) ** 2
        return dist.LowRankMultivariateNormal(mu, U.reshape(*U.shape[:-1], size, self.rank), variance)
