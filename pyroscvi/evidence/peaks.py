"""Peaks of the posterior of latents that cells share, whichever of them the guide knows.

Loadings may change their sign and factors may be rotated into each other; a guide covers one of these modes. So the
search starts at several points: the guide's mean, its mirror image and draws from the prior. Every peak that is found
becomes a component of the density, which is divided halfway between neighbouring peaks. A component has a proposal of
its own; a ring of equally good rotations has as many components as peaks were found on it.
"""

from math import inf
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pyroscvi.evidence.proposals import Elliptical, LogJoint, Proposal, beside, widened
from pyroscvi.evidence.refined import MIN_CURVATURE, surface, with_gradient

MAX_STEPS = 25  # of L-BFGS
MIN_DISTANCE = 1.5  # standard deviations: peaks that are nearer to each other are one
MAX_DEFICIT = 20.0  # nats: peaks that are lower than the highest by more are ignored


class Divided:
    """A log-density of u [s, n, size], divided into components: u belongs to the nearest peak.

    peaks    [peak, size]
    scale    covariance about each of them [peak, size, size]
    heights  the log-density of each of them [peak]
    """

    def __init__(self, whole: LogJoint, peaks: Tensor, scale: Tensor, heights: Tensor):
        self.whole, self.peaks, self.scale, self.heights = whole, peaks, scale, heights
        self.chunk = getattr(whole, "chunk", None)

    def of(self, whole: LogJoint) -> "Divided":
        """Another density, divided at the same peaks."""
        return Divided(whole, self.peaks, self.scale, self.heights)

    def __call__(self, u: Tensor) -> Tensor:
        return self.whole(u)

    def by_component(self, u: Tensor) -> Tensor:
        """The density at the peak that is nearest to u, and zero at the others [peak, s, n]."""
        nearest = torch.cdist(u.flatten(0, -2), self.peaks).argmin(-1).view(u.shape[:-1])
        inside = nearest == torch.arange(len(self.peaks), device=u.device)[:, None, None]
        return self.whole(u).where(inside, -inf)


class AtPeaks(Proposal):
    """Student-t about every peak of a divided density, as wide as the curvature, or as the way to the next peak."""

    method: ClassVar[str] = "refined"

    def forward(self, q, log_joint):
        factor = torch.linalg.cholesky(log_joint.scale)
        parts = widened(Elliptical(log_joint.peaks[:, None], factor[:, None]))
        masses = log_joint.heights + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return beside(parts, masses[:, None], widened(q), 0.1)


def divided(log_joint: LogJoint, starts: Tensor, spread: Tensor) -> Divided:
    """The density, divided at the peaks that searches from ``starts`` [start, size] reach.

    spread   the scale of every coordinate [size], for finite differences of gradients
    """
    u, height = ascent(log_joint, starts)
    high = height > height.max() - MAX_DEFICIT
    u, height = u[high], height[high]
    _, _, curvature = surface(log_joint, u, (0.1 * spread).expand_as(u))
    values, axes = torch.linalg.eigh(curvature)
    scale = (axes / values.clamp(min=MIN_CURVATURE).unsqueeze(-2)) @ axes.mT
    distinct: list[int] = []
    for i in height.argsort(descending=True).tolist():
        if all(_distance(u[i] - u[j], scale[i], scale[j]) > MIN_DISTANCE for j in distinct):
            distinct.append(i)
    u, height, scale = u[distinct], height[distinct], scale[distinct]
    if len(distinct) > 1:
        halfway = (torch.cdist(u, u) + torch.eye(len(u)).to(u).mul(1e9)).amin(-1) / 2
        values, axes = torch.linalg.eigh(scale)
        scale = (axes * values.clamp(max=halfway[:, None] ** 2).unsqueeze(-2)) @ axes.mT
    return Divided(log_joint, u, scale, height)


def ascent(log_joint: LogJoint, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Peaks [start, size] and their heights [start], by one L-BFGS from all starts with a finite density."""
    with torch.no_grad():
        starts = starts[log_joint(starts[None])[0].isfinite()]
    if not len(starts):
        raise ValueError("log p(x, u) is not finite at any start of the search: look at counts and parameters")

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        height, gradient = with_gradient(log_joint, torch.as_tensor(flat).to(starts).view_as(starts)[None])
        return -height.sum().item(), -gradient.flatten().cpu().numpy()

    from scipy.optimize import minimize  # imported when needed: it takes long, and ``fit`` imports this file

    optimum = minimize(
        loss, starts.flatten().cpu().numpy(), jac=True, method="L-BFGS-B", options={"maxiter": MAX_STEPS}
    )
    u = torch.as_tensor(optimum.x).to(starts).view_as(starts)
    with torch.no_grad():
        height = log_joint(u[None])[0]
    return u[height.isfinite()], height[height.isfinite()]


def _distance(step: Tensor, one: Tensor, other: Tensor) -> float:
    """The distance of two peaks, in standard deviations of the narrower one."""
    return float(max((step @ torch.linalg.solve(scale, step)).clamp(min=0).sqrt() for scale in (one, other)))
