"""Mixtures of Gaussians from which one can sample with gradients."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor


class MixedGaussians(dist.MixtureOfDiagNormals):
    """A mixture of Gaussians with independent coordinates: Pyro's, with its moments, and several samples at once.

    locs, coord_scale   means and standard deviations                     [..., k, d], with d of at least 2
    component_logits    log weights, up to a constant                     [..., k]
    """

    @property
    def mean(self) -> Tensor:
        return (self.probs.unsqueeze(-1) * self.locs).sum(-2)

    @property
    def variance(self) -> Tensor:
        square = self.coord_scale.square() + (self.locs - self.mean.unsqueeze(-2)).square()
        return (self.probs.unsqueeze(-1) * square).sum(-2)

    @property
    def covariance_matrix(self) -> Tensor:
        weights = self.probs.unsqueeze(-1)
        apart = self.locs - self.mean.unsqueeze(-2)
        return (weights * self.coord_scale.square()).sum(-2).diag_embed() + (weights * apart).mT @ apart

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        if not sample_shape:
            return super().rsample()
        return self.expand(torch.Size(sample_shape) + self.batch_shape).rsample()
