"""Probabilistic PCA of log counts: the only model of the zoo whose evidence has a closed form.

    plate "cells", n = 1 .. N
        z ~ Normal(0, I)                              the state of the cell
        x ~ Log1pNormal(W z + c, sigma)               log(1 + x) is Gaussian, with its mean on a plane

Plate diagram:

        +----------------- cells --+
        |  (z) ----> [[x]]         |  <---- W, c, sigma
        +--------------------------+

Let y = log(1 + x). Then p(y) = Normal(c, W W' + sigma^2 I), and the posterior of z is Gaussian too. An estimate of an
evidence or of a posterior can be compared with ``log_evidence`` and ``posterior``. The evidence is p(x), a density of
y: it cannot be compared with a probability of counts.

Example: exact posteriors of 20 cells, and their exact evidences.

    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(batch="batch").read(simulated(cells=20, genes=5))
    >>> model = PPCA(latent=2).sized(cells.dims)
    >>> model.posterior(cells.x).mean.shape, model.log_evidence(cells.x).shape
    (torch.Size([20, 2]), torch.Size([20]))

References
    Tipping, M. E. & Bishop, C. M. (1999) Probabilistic principal component analysis. J R Stat Soc B 61, 611-622.
    doi:10.1111/1467-9868.00196
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyroscvi.distributions import Log1pNormal
from pyroscvi.parts import Prior, StandardNormal
from pyroscvi.program import Model
from pyroscvi.ranges import PositiveInt

__all__ = ["PPCA"]


class PPCA(Model):
    latent: PositiveInt = 10
    prior: Prior = StandardNormal()

    def build(self, dims):
        super().build(dims)
        self.W = nn.Parameter(0.1 * torch.randn(dims.genes, self.latent))
        self.c = nn.Parameter(softplus(dims.profile.log() + dims.log_size[:, 0].mean()))  # log(1 + an average cell)
        self.log_sigma = nn.Parameter(torch.zeros(()))

    def model(self, cells):
        with cells.plate():
            z = self.prior()
            pyro.sample("x", Log1pNormal(z @ self.W.T + self.c, self.log_sigma), obs=cells.x)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x_n), exactly [n], for counts x [n, g] under the standard normal prior."""
        noise = (2 * self.log_sigma).exp().expand(self.c.shape)
        return dist.LowRankMultivariateNormal(self.c, self.W, noise).log_prob(x.log1p())

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """p(z_n | x_n), exactly: batch shape [n], for counts x [n, g] under the standard normal prior."""
        tau = (-2 * self.log_sigma).exp()
        precision = torch.eye(self.latent).to(self.W) + tau * self.W.T @ self.W
        mean = torch.linalg.solve(precision, tau * self.W.T @ (x.log1p() - self.c).unsqueeze(-1)).squeeze(-1)
        return dist.MultivariateNormal(mean, precision_matrix=precision)
