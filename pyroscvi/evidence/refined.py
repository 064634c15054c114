"""A proposal of every cell's own: from where the guide points uphill to the mode, and as wide as the density is there.

One guide reads all cells, and some of them badly; these make the error of an evidence. Here the guide's word is only a
place to start from, so that the estimate hardly depends on it.
"""

from typing import ClassVar

import torch
from torch import Tensor

from pyroscvi.evidence.proposals import Elliptical, LogJoint, Mixed, Proposal, components

__all__ = ["Refined"]

PIECE = 8  # rows of u whose gradients are taken at once
FLATTEST = 1e-4  # the least curvature that a Newton step believes in
LITTLE = 0.01  # nats: a step that gains no more is the last
STUCK = 1e6  # curvatures: steps that are damped by so much are none
FALL, DEEP = 0.5, 1e6  # nats
FACTOR = 1 / 8, 4.0  # by which a width changes at once
LONGEST = 10.0  # an axis, in widths along the coordinates, before it is looked at


class Refined(Proposal):
    """Student-t about every mode of p(x, u), a little wider than the density is there, mixed with the guide's own.

    Each component of a mixture (each level of what the model enumerates) has a mode. It is found by damped Newton steps
    from the guide's mean [Levenberg, 1944; Marquardt, 1963], over ridges and saddles as over hills [Dauphin et al.,
    2014, arXiv:1406.2572]. Curvatures are differences of gradients, which give the axes of the draws; how far they go
    along each is where the density has fallen by half a nat, as a Gaussian has at one standard deviation. At a mode of
    a decoder made of ReLUs a curvature alone may be anything: the density has an edge there, or is flat and then ends.
    A mode weighs what a Gaussian of its height and width would. One draw in four is left to the guide: a mode is not
    all of a posterior [defensive mixture; Hesterberg, 1995].
    """

    method: ClassVar[str] = "refined"

    df: float = 5.0
    widen: float = 1.15
    steps: int = 100

    def forward(self, q, log_joint):
        scale = q.scale_tril.norm(dim=-1)
        own = Elliptical(q.loc, self.widen * q.scale_tril, self.df)
        parts, masses = [], []
        for density in components(log_joint):
            mode = climb(density, q.loc, 0.1 * scale, self.steps)
            height, factor = hill(density, mode, scale)
            parts.append(Elliptical(mode, self.widen * factor, self.df))
            masses.append(height + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1))
        weights = 0.75 * torch.stack(masses).softmax(0)
        return Mixed((*parts, own), torch.cat([weights, torch.full_like(weights[:1], 0.25)]))


def climb(log_joint: LogJoint, u: Tensor, h: Tensor, steps: int) -> Tensor:
    """The mode [n, d] uphill of u [n, d]; ``h`` is what curvatures are differences over [n, d]."""
    height, slope, curvature = surface(log_joint, u, h)
    if not (height.isfinite().all() and curvature.isfinite().all()):
        raise ValueError("log p(x, z) or its slope is not finite where the guide points: look at counts and parameters")
    damping, climbs = torch.full_like(height, 1e-2), torch.ones_like(height, dtype=torch.bool)
    for _ in range(steps):
        values, axes = torch.linalg.eigh(curvature)
        values = values.abs().clamp(min=FLATTEST)
        uphill = (axes.mT @ slope.unsqueeze(-1)).squeeze(-1)
        climbs &= (uphill**2 / values).sum(-1) > 1e-4  # more than a hundredth of a standard deviation from the top
        climbs &= damping < STUCK * values.amax(-1)  # and not on an edge, where no slope leads upwards
        if not climbs.any():
            break
        there = u + (axes @ (uphill / (values + damping.unsqueeze(-1))).unsqueeze(-1)).squeeze(-1)
        tried = surface(log_joint, there, h)
        # A cell that has arrived stays, whichever cells it was batched with.
        moves = climbs & (tried[0] > height) & tried[2].isfinite().all(-1).all(-1)
        climbs &= ~moves | (tried[0] - height > LITTLE)
        damping = torch.where(moves, damping / 4, damping * 8)
        u = torch.where(moves[:, None], there, u)
        height = torch.where(moves, tried[0], height)
        slope = torch.where(moves[:, None], tried[1], slope)
        curvature = torch.where(moves[:, None, None], tried[2], curvature)
    return u


def hill(log_joint: LogJoint, mode: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Height [n] of a mode [n, d], and the Cholesky factor of the covariance about it [n, d, d].

    scale  the order of magnitude of every coordinate [n, d]
    """
    along = torch.eye(mode.shape[-1]).to(mode).expand(len(mode), -1, -1)
    width = widths(log_joint, mode, along, scale, rounds=6)
    height, _, curvature = surface(log_joint, mode, width)
    values, axes = torch.linalg.eigh(curvature)
    flat = (axes / width.unsqueeze(-1)).square().sum(-2) / LONGEST**2
    width = widths(log_joint, mode, axes, values.maximum(flat).rsqrt(), rounds=4)
    return height, torch.linalg.cholesky((axes * width.unsqueeze(-2) ** 2) @ axes.mT)


@torch.no_grad()
def widths(log_joint: LogJoint, mode: Tensor, axes: Tensor, width: Tensor, rounds: int) -> Tensor:
    """How far from a mode [n, d], to both sides of it on average, the density has fallen by ``FALL`` [n, d].

    axes   the directions, as columns [n, d, d]
    width  where to begin [n, d]
    """
    top, d = log_joint(mode[None])[0], mode.shape[-1]
    for _ in range(rounds):
        aside = (axes * width.unsqueeze(-2)).movedim(-1, 0)  # [d, n, d]
        points = torch.cat([mode + aside, mode - aside])
        height = torch.cat([log_joint(piece) for piece in points.split(PIECE)])
        fall = (top - height).nan_to_num(DEEP, posinf=DEEP).clamp(0, DEEP)
        fall = (fall[:d] + fall[d:]).T / 2
        width = width * (FALL / fall).sqrt().clamp(*FACTOR)
    return width


def surface(log_joint: LogJoint, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Height [n], slope [n, d] and curvature -d2/du2 [n, d, d] of the log joint density at u [n, d]."""
    d = u.shape[-1]
    aside = torch.diag_embed(h).movedim(-2, 0)  # [d, n, d]
    points = torch.cat([u.unsqueeze(0), u + aside, u - aside])
    heights, slopes = [], []
    for piece in points.split(PIECE):
        with torch.enable_grad():
            piece = piece.detach().requires_grad_()
            height = log_joint(piece)
            (slope,) = torch.autograd.grad(height.sum(), piece)
        heights.append(height.detach())
        slopes.append(slope)
    height, slope = torch.cat(heights)[0], torch.cat(slopes)
    difference = (slope[d + 1 :] - slope[1 : d + 1]) / (2 * h.T.unsqueeze(-1))  # [d, n, d]
    curvature = difference.movedim(0, 1)
    return height, slope[0], (curvature + curvature.mT) / 2
