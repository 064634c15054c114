"""Kullback-Leibler divergences in closed form, where torch has none of its own or falls back to a draw.

For a Gaussian q with any covariance and a prior p whose coordinates are independent,

    KL(q || p) = sum_j KL(q_j || p_j) + sum_j H[q_j] - H[q]

q_j being the margins of q: what the margins cost, and what is left, the information that they share.
"""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import LogNormal, kl_divergence
from torch.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    IndependentTransform,
    Transform,
)

from pyroscvi.handlers import Tempered

__all__ = ["divergence"]


def divergence(q: Any, p: Any) -> Tensor | None:
    """KL(q || p) in nats over the batch shape of both; None where no closed form is known. Tempered alike, so is it."""
    if isinstance(q, Tempered) and isinstance(p, Tempered) and (q.beta is p.beta or q.beta == p.beta):
        kl = divergence(q.base, p.base)
        return None if kl is None else q.beta * kl
    if isinstance(q, Tempered) or isinstance(p, Tempered):
        return None
    q, p = _logs(q, p)
    correlated = isinstance(q, dist.MultivariateNormal | dist.LowRankMultivariateNormal)
    if correlated and isinstance(p, dist.Independent) and p.reinterpreted_batch_ndims == 1:
        margins = dist.Normal(q.mean, q.variance.sqrt()).to_event(1)
        kl = divergence(margins, p)
        return None if kl is None else kl + margins.entropy() - q.entropy()
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _logs(q: Any, p: Any) -> tuple[Any, Any]:
    """A divergence is the same before and after a one-to-one map: log-normals are compared as the normals they are."""
    inner = p.base_dist if isinstance(p, dist.Independent) else p
    if not isinstance(q, torch.distributions.TransformedDistribution) or not isinstance(inner, LogNormal):
        return q, p
    steps = [step for transform in q.transforms for step in _steps(transform) if not _is_identity(step)]
    if [type(step) for step in steps] != [ExpTransform]:
        return q, p
    return q.base_dist, dist.Independent(inner.base_dist, len(p.event_shape))


def _steps(transform: Transform) -> list[Transform]:
    """A transform, taken apart."""
    if isinstance(transform, IndependentTransform):
        return _steps(transform.base_transform)
    if isinstance(transform, ComposeTransform):
        return [step for part in transform.parts for step in _steps(part)]
    return [transform]


def _is_identity(transform: Transform) -> bool:
    """Of an affine map with numbers for parameters: a tensor is not looked into."""
    if not isinstance(transform, AffineTransform) or isinstance(transform.loc, Tensor):
        return False
    return (transform.loc, transform.scale) == (0, 1)
