"""Mean field: given its counts, the latents of a cell are independent.

    h = f(log(1 + x))
    q(z | x) = Normal(mu(h), diag(sigma(h)^2))

Where the posterior is correlated, the ELBO prefers a sigma that is too small: q fits the narrow axes of the posterior.
Compare with ``FullCovariance`` before you use its intervals.

Example: two numbers, mu and sigma, for each of 4 latent dimensions.

    >>> from pyroscvi.models import SCVI
    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(batch="batch").read(simulated(cells=20, genes=5))
    >>> MeanField().sized(SCVI(latent=4).sized(cells.dims), cells).heads["z"].out_features
    8

References
    Kingma, D. P. & Welling, M. (2014) Auto-encoding variational Bayes. ICLR. arXiv:1312.6114
"""

import pyro.distributions as dist
from torch import nn
from torch.nn.functional import softplus

from pyroscvi.program import Guide

__all__ = ["MeanField"]


class MeanField(Guide):
    def head(self, width, size):
        return nn.Linear(width, 2 * size)

    def posterior(self, parameters):
        mu, raw_sigma = parameters.chunk(2, -1)
        return dist.Normal(mu, softplus(raw_sigma) + 1e-4).to_event(1)
