"""Peaks: where a posterior of latents that cells share has its mass, whatever the guide knows of it.

Loadings may change their sign, factors be turned into each other, and a guide has seen one of all these ways. So the
search begins at several places, the guide's mean, its mirror image and draws from the prior among them, and every peak
that it arrives at becomes a component: the density, cut halfway between one peak and the next. A component has a
proposal of its own, and a ring of equally good rotations as many as there are peaks on it.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import ClassVar

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from pyroscvi.evidence.proposals import Elliptical, LogJoint, Mixed, Proposal
from pyroscvi.evidence.refined import FLATTEST, surface

__all__ = ["AtPeaks", "Divided", "ascent", "divided"]

STEPS = 25
APART = 1.5  # standard deviations: peaks that are nearer to each other are one
LOW = 20.0  # nats below the highest peak: not worth a look


class Divided:
    """A log-density of u [s, n, size], cut into components: u belongs to the peak that is nearest.

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

    def components(self) -> list[Callable[[Tensor], Tensor]]:
        if len(self.peaks) == 1:
            return [self.whole]
        return [partial(self._component, k) for k in range(len(self.peaks))]

    def _component(self, k: int, u: Tensor) -> Tensor:
        here = torch.cdist(u.flatten(0, -2), self.peaks).argmin(-1).view(u.shape[:-1]) == k
        found = u.new_full(u.shape[:-1], -inf)
        if here.any():
            found[here] = self.whole(u[here].unsqueeze(-2)).squeeze(-1)
        return found


class AtPeaks(Proposal):
    """Student-t about every peak of a divided density, as wide as the curvature there says, or as far as the next."""

    method: ClassVar[str] = "refined"

    @staticmethod
    def shape(size: int) -> dict[str, float]:
        """Degrees of freedom and widening: what is cautious in five dimensions leaves few draws of use in thirty."""
        return {"df": max(5.0, float(size)), "widen": 1 + min(0.15, 0.75 / size)}

    def forward(self, q, log_joint):
        df, widen = self.shape(q.loc.shape[-1]).values()
        factor = torch.linalg.cholesky(log_joint.scale)
        own = Elliptical(q.loc, widen * q.scale_tril, df)
        pairs = zip(log_joint.peaks, factor, strict=True)
        parts = [Elliptical(peak[None], widen * each[None], df) for peak, each in pairs]
        masses = log_joint.heights + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        weights = 0.9 * masses.softmax(0)[:, None]
        return Mixed((*parts, own), torch.cat([weights, torch.full_like(weights[:1], 0.1)]))


def divided(log_joint: LogJoint, starts: Tensor, spread: Tensor) -> Divided:
    """The density, divided at the peaks that are uphill of ``starts`` [start, size].

    spread   the scale of every coordinate [size], for differences of slopes
    """
    u, height = ascent(log_joint, starts)
    best = height > height.max() - LOW
    u, height = u[best], height[best]
    _, _, curvature = surface(log_joint, u, (0.1 * spread).expand_as(u))
    scale = covariance(curvature)
    kept: list[int] = []
    for i in height.argsort(descending=True).tolist():
        if all(_apart(u[i] - u[j], scale[i], scale[j]) > APART for j in kept):
            kept.append(i)
    u, height, scale = u[kept], height[kept], scale[kept]
    if len(kept) > 1:
        next_one = (torch.cdist(u, u) + torch.eye(len(u)).to(u).mul(1e9)).amin(-1) / 2
        values, axes = torch.linalg.eigh(scale)
        scale = (axes * values.clamp(max=next_one[:, None] ** 2).unsqueeze(-2)) @ axes.mT
    return Divided(log_joint, u, scale, height)


def ascent(log_joint: LogJoint, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Peaks [start, size] and their heights [start]: L-BFGS, from all of the starts at once that have a density."""
    with torch.no_grad():
        starts = starts[log_joint(starts[None])[0].isfinite()]
    if not len(starts):
        raise ValueError("log p(x, u) is not finite wherever a search might begin: look at counts and parameters")

    def downhill(flat: np.ndarray) -> tuple[float, np.ndarray]:
        u = torch.as_tensor(flat).to(starts).view_as(starts).requires_grad_()
        with torch.enable_grad():
            height = log_joint(u[None]).sum()
            (slope,) = torch.autograd.grad(height, u)
        return -height.item(), -slope.flatten().cpu().numpy()

    found = minimize(downhill, starts.flatten().cpu().numpy(), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    u = torch.as_tensor(found.x).to(starts).view_as(starts)
    with torch.no_grad():
        height = log_joint(u[None])[0]
    return u[height.isfinite()], height[height.isfinite()]


def covariance(curvature: Tensor) -> Tensor:
    """The inverse of a curvature [n, d, d], of whose directions none is flatter than ``FLATTEST``."""
    values, axes = torch.linalg.eigh(curvature)
    return (axes / values.clamp(min=FLATTEST).unsqueeze(-2)) @ axes.mT


def _apart(step: Tensor, one: Tensor, other: Tensor) -> float:
    """How far two peaks are from each other, in standard deviations of the narrower one."""
    found = [(step @ torch.linalg.solve(scale, step)).clamp(min=0).sqrt() for scale in (one, other)]
    return float(max(found))
