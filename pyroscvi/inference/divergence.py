"""Kullback-Leibler divergences in closed form, also where torch has no formula or estimates with a draw.

For a Gaussian q with any covariance and a prior p whose coordinates are independent,

    KL(q || p) = sum_j KL(q_j || p_j) + sum_j H[q_j] - H[q]

where q_j are the marginals of q. The last two terms are the total correlation of q, from dependent coordinates.
"""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import LogNormal, Transform, kl_divergence
from torch.distributions.transforms import AffineTransform, ComposeTransform, ExpTransform, IndependentTransform

from pyroscvi.distributions.offset import Offset
from pyroscvi.handlers import Tempered


def divergence(q: Any, p: Any) -> Tensor | None:
    """KL(q || p) in nats, with the batch shape of q and p; None where no closed form is known.

    Two distributions tempered by the same beta have beta times the divergence of their bases.
    """
    if isinstance(q, Tempered) and isinstance(p, Tempered) and (q.beta is p.beta or q.beta == p.beta):
        kl = divergence(q.base_dist, p.base_dist)
        return None if kl is None else q.beta * kl
    if isinstance(q, Tempered) or isinstance(p, Tempered):
        return None
    if isinstance(p, Offset):
        kl = divergence(q, p.base_dist)
        return None if kl is None else kl - p.offset
    q, p = _logs(q, p)
    correlated = isinstance(q, dist.MultivariateNormal | dist.LowRankMultivariateNormal)
    if correlated and isinstance(p, dist.Independent) and p.reinterpreted_batch_ndims == 1:
        marginals = dist.Normal(q.mean, q.variance.sqrt()).to_event(1)
        kl = divergence(marginals, p)
        return None if kl is None else kl + marginals.entropy() - q.entropy()
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _logs(q: Any, p: Any) -> tuple[Any, Any]:
    """q and p, log-normals replaced by the normals of their logs: a one-to-one map does not change the divergence."""
    inner = p.base_dist if isinstance(p, dist.Independent) else p
    if not isinstance(q, torch.distributions.TransformedDistribution) or not isinstance(inner, LogNormal):
        return q, p
    steps = [step for transform in q.transforms for step in _steps(transform) if not _is_identity(step)]
    if [type(step) for step in steps] != [ExpTransform]:
        return q, p
    return q.base_dist, dist.Independent(inner.base_dist, len(p.event_shape))


def _steps(transform: Transform) -> list[Transform]:
    """The elementary transforms that a transform is composed of, in order."""
    if isinstance(transform, IndependentTransform):
        return _steps(transform.base_transform)
    if isinstance(transform, ComposeTransform):
        return [step for part in transform.parts for step in _steps(part)]
    return [transform]


def _is_identity(transform: Transform) -> bool:
    """Whether this is an affine map with loc 0 and scale 1, both plain numbers (the values of tensors are not read)."""
    if not isinstance(transform, AffineTransform) or isinstance(transform.loc, Tensor):
        return False
    return (transform.loc, transform.scale) == (0, 1)
