"""Full covariance: given its counts, the latents of a cell may be correlated.

    h = f(log(1 + x))
    q(z | x) = Normal(mu(h), L L'),   L = diag(sigma(h)) (I + T(h)),   T strictly lower triangular

The head predicts sigma and T, not the entries of L. So scales and correlations have separate parameters, and T = 0 is
the mean-field guide exactly. Entries of T, and therefore correlations, may have either sign.

Example: one covariance matrix of 4 latent dimensions for each of 20 cells.

    >>> from pyroscvi.models import SCVI
    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(batch="batch").read(simulated(cells=20, genes=5))
    >>> guide = FullCovariance().sized(SCVI(latent=4).sized(cells.dims), cells)
    >>> guide.posteriors(cells)["z"].covariance_matrix.shape
    torch.Size([20, 4, 4])

References
    Tan, L. S. L. & Nott, D. J. (2018) Gaussian variational approximation with sparse precision matrices. Stat Comput
    28, 259-275. doi:10.1007/s11222-017-9729-7
"""

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyroscvi.program import Guide

__all__ = ["FullCovariance"]


class FullCovariance(Guide):
    def head(self, width, size):
        return Factor(width, size)

    def posterior(self, parameters):
        mu, scale_tril = parameters
        return dist.MultivariateNormal(mu, scale_tril=scale_tril)


class Factor(nn.Module):
    """Predicts mu [..., size] and L [..., size, size] from h [..., width]."""

    rows: Tensor
    columns: Tensor

    def __init__(self, width: int, size: int):
        super().__init__()
        self.size = size
        rows, columns = torch.tril_indices(size, size, offset=-1)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
        self.out = nn.Linear(width, 2 * size + len(rows))
        with torch.no_grad():  # it starts as a mean field, with zeros below the diagonal
            self.out.weight[2 * size :].zero_()
            self.out.bias[2 * size :].zero_()

    def forward(self, h):
        mu, raw_sigma, below = self.out(h).split([self.size, self.size, len(self.rows)], -1)
        unit = torch.eye(self.size, dtype=h.dtype, device=h.device).repeat(*h.shape[:-1], 1, 1)
        unit[..., self.rows, self.columns] = below
        return mu, (softplus(raw_sigma) + 1e-4).unsqueeze(-1) * unit
