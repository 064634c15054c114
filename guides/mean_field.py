"""Mean field: the latents of a cell are independent given its counts.

    h = f(log(1 + x))
    q(z | x) = Normal(mu(h), diag(sigma(h)^2))

The evidence lower bound prefers it too narrow where the posterior is correlated: it fits along the shortest axes.
Compare with ``FullCovariance`` before trusting its intervals.

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
