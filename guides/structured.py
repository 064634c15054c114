"""Structured: given its counts, a cell may be of several types, and its latents are those of one of them.

    h         = f(log(1 + x))
    q(y | x)  = Categorical(w(h))
    q(z | x, y) = Normal(mu(h) + delta_y(h), diag(sigma_y(h)^2))

y are the levels that the model sums out: types, kinds, components. The model computes p(y | z, x) exactly, so the guide
needs no draws of y: z comes from the sum over y, q(z | x) = sum_y q(y | x) q(z | x, y), with gradients through it. The
bound is at least as tight as that of the pair (y, z). A cell that could be of two types has two modes, which one
Gaussian cannot have. Two cases are mean field: pages without such a level, and latents of one number or that all cells
share.

Example: a weight for each of 4 kinds, given the counts of 20 cells.

    >>> from pyroscvi.models import GMVAE
    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(batch="batch").read(simulated(cells=20, genes=5))
    >>> guide = Structured().sized(GMVAE(latent=3, kinds=4).sized(cells.dims), cells)
    >>> guide.posteriors(cells)["z"].probs.shape
    torch.Size([20, 4])

References
    Kingma, D. P. et al. (2014) Semi-supervised learning with deep generative models. NeurIPS. arXiv:1406.5298
    Jankowiak, M. & Karaletsos, T. (2019) Pathwise derivatives for multivariate distributions. AISTATS. arXiv:1806.01856
"""

from math import prod

import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyroscvi.distributions.mixed_gaussians import MixedGaussians
from pyroscvi.program import Guide, enumerated_levels

__all__ = ["Structured"]


class Structured(Guide):
    def build(self, model, cells):
        self.types = prod(enumerated_levels(model, cells).values())
        super().build(model, cells)

    def head(self, width, size):
        return OfTypes(width, size, 1 if size == 1 or width == 1 else self.types)

    def posterior(self, parameters):
        mu, sigma, logits = parameters
        if mu.shape[-2] == 1:
            return dist.Normal(mu[..., 0, :], sigma[..., 0, :]).to_event(1)
        return MixedGaussians(mu, sigma, logits)


class OfTypes(nn.Module):
    """Predicts means and deviations [..., types, size], and logits [..., types], from h [..., width]."""

    def __init__(self, width: int, size: int, types: int):
        super().__init__()
        self.sizes = [size, size] + ([types * size, types * size, types] if types > 1 else [])
        self.out = nn.Linear(width, sum(self.sizes))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        mu, raw_sigma, *of_types = self.out(h).split(self.sizes, -1)
        mu, raw_sigma = mu.unsqueeze(-2), raw_sigma.unsqueeze(-2)
        if not of_types:
            return mu, softplus(raw_sigma) + 1e-4, None
        delta, raw_delta = (part.unflatten(-1, (-1, mu.shape[-1])) for part in of_types[:2])
        return mu + delta, softplus(raw_sigma + raw_delta) + 1e-4, of_types[2]
