"""Low rank: the latents of a cell are correlated through a few directions given its counts.

    h = f(log(1 + x))
    q(z | x) = Normal(mu(h), diag(sigma(h)^2) + U(h) U(h)'),   U with ``rank`` columns

Between mean field (rank 0) and full covariance: the encoder's last layer grows with rank x latent rather than latent^2,
which matters for tens of latent dimensions and for shared latents with one dimension a gene.

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
