"""A proposal for every cell: climb from the guide's mean to the mode, and be as wide as the density is there.

One guide reads all cells, and some of them badly, which makes most of the error of an evidence. Here the guide is only
the starting point, so that the estimate hardly depends on it.
"""

from typing import ClassVar

import torch
from torch import Tensor

from pyroscvi.evidence.proposals import Elliptical, LogJoint, Proposal, beside, by_component

PIECE = 8  # draws whose gradients are computed at once
MIN_CURVATURE = 1e-4  # smaller ones are raised to it, in a Newton step
MIN_GAIN = 0.01  # nats: a step that gains no more is the last
MIN_DISTANCE = 1e-4  # squared, in standard deviations: nearer to the mode is at the mode
MAX_DAMPING = 1e6  # in curvatures: with more damping a step would not move
FALL, MAX_FALL = 0.5, 1e6  # nats
FACTORS = 1 / 8, 4.0  # limits on the change of a width in one round
MAX_WIDTH = 10.0  # of an axis at first, in widths along the coordinates


class Refined(Proposal):
    """Student-t about every mode of p(x, u), a little wider than the density is there, mixed with the guide's own.

    Each component of a mixture (each level of what the model enumerates) has a mode. It is found by damped Newton steps
    from the guide's mean [Levenberg, 1944; Marquardt, 1963], also over ridges and saddles [Dauphin et al., 2014,
    arXiv:1406.2572]. Curvatures are differences of gradients, and give the axes of the proposal. Its width along each
    axis is where the density has fallen by half a nat, as a Gaussian has at one standard deviation. A curvature alone
    may be anything at a mode of a decoder made of ReLUs: the density has an edge there, or is flat and then ends. The
    weight of a mode is that of a Gaussian of its height and width. One draw in four comes from the guide, because a
    mode is not all of a posterior [defensive mixture; Hesterberg, 1995].
    """

    method: ClassVar[str] = "refined"

    df: float = 5.0
    widen: float = 1.15
    steps: int = 100

    def forward(self, q, log_joint):
        scale, densities = q.scale_tril.norm(dim=-1), by_component(log_joint)
        own = Elliptical(q.loc, self.widen * q.scale_tril, self.df)
        modes, factors, masses = [], [], []
        for k in range(len(densities(q.loc.unsqueeze(0)))):

            def density(u: Tensor, k: int = k) -> Tensor:
                return densities(u)[k]

            mode = climb(density, q.loc, 0.1 * scale, self.steps)
            height, factor = shape(density, mode, scale)
            modes.append(mode)
            factors.append(self.widen * factor)
            masses.append(height + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1))
        return beside(Elliptical(torch.stack(modes), torch.stack(factors)), torch.stack(masses), own, 0.25)


def climb(log_joint: LogJoint, u: Tensor, h: Tensor, steps: int) -> Tensor:
    """The mode [n, d] that damped Newton steps reach from u [n, d]; h [n, d] are the steps of finite differences."""
    height, gradient, curvature = surface(log_joint, u, h)
    if not (height.isfinite().all() and curvature.isfinite().all()):
        raise ValueError("log p(x, z) or its gradient is not finite at the guide's mean: look at counts and parameters")
    damping, climbing = torch.full_like(height, 1e-2), torch.ones_like(height, dtype=torch.bool)
    for _ in range(steps):
        values, axes = torch.linalg.eigh(curvature)
        values = values.abs().clamp(min=MIN_CURVATURE)
        along = (axes.mT @ gradient.unsqueeze(-1)).squeeze(-1)
        climbing &= (along**2 / values).sum(-1) > MIN_DISTANCE
        climbing &= damping < MAX_DAMPING * values.amax(-1)  # more means an edge, where no gradient leads upwards
        if not climbing.any():
            break
        proposed = u + (axes @ (along / (values + damping.unsqueeze(-1))).unsqueeze(-1)).squeeze(-1)
        new_height, new_gradient, new_curvature = surface(log_joint, proposed, h)
        # A cell that has reached its mode is not moved, whatever the other cells of the minibatch do.
        accepted = climbing & (new_height > height) & new_curvature.isfinite().all(-1).all(-1)
        climbing &= ~accepted | (new_height - height > MIN_GAIN)
        damping = torch.where(accepted, damping / 4, damping * 8)
        u = torch.where(accepted[:, None], proposed, u)
        height = torch.where(accepted, new_height, height)
        gradient = torch.where(accepted[:, None], new_gradient, gradient)
        curvature = torch.where(accepted[:, None, None], new_curvature, curvature)
    return u


def shape(log_joint: LogJoint, mode: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Height [n] of a mode [n, d], and the Cholesky factor of the covariance about it [n, d, d].

    scale  the order of magnitude of every coordinate [n, d]
    """
    coordinates = torch.eye(mode.shape[-1]).to(mode).expand(len(mode), -1, -1)
    width = widths(log_joint, mode, coordinates, scale, rounds=6)
    height, _, curvature = surface(log_joint, mode, width)
    values, axes = torch.linalg.eigh(curvature)
    least = (axes / width.unsqueeze(-1)).square().sum(-2) / MAX_WIDTH**2
    width = widths(log_joint, mode, axes, values.maximum(least).rsqrt(), rounds=4)
    return height, torch.linalg.cholesky((axes * width.unsqueeze(-2) ** 2) @ axes.mT)


@torch.no_grad()
def widths(log_joint: LogJoint, mode: Tensor, axes: Tensor, width: Tensor, rounds: int) -> Tensor:
    """The distance from a mode [n, d] at which the density has fallen by ``FALL``, both sides averaged [n, d].

    axes   the directions, as columns [n, d, d]
    width  the first guess [n, d]
    """
    top, d = log_joint(mode[None])[0], mode.shape[-1]
    for _ in range(rounds):
        step = (axes * width.unsqueeze(-2)).movedim(-1, 0)  # [d, n, d]
        points = torch.cat([mode + step, mode - step])
        height = torch.cat([log_joint(piece) for piece in points.split(PIECE)])
        fall = (top - height).nan_to_num(MAX_FALL, posinf=MAX_FALL).clamp(0, MAX_FALL)
        fall = (fall[:d] + fall[d:]).T / 2
        width = width * (FALL / fall).sqrt().clamp(*FACTORS)
    return width


def surface(log_joint: LogJoint, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Height [n], gradient [n, d] and curvature -d2/du2 [n, d, d] of the log joint density at u [n, d]."""
    d = u.shape[-1]
    step = torch.diag_embed(h).movedim(-2, 0)  # [d, n, d]
    points = torch.cat([u.unsqueeze(0), u + step, u - step])
    heights, gradients = zip(*(with_gradient(log_joint, piece) for piece in points.split(PIECE)), strict=True)
    height, gradient = torch.cat(heights)[0], torch.cat(gradients)
    difference = (gradient[d + 1 :] - gradient[1 : d + 1]) / (2 * h.T.unsqueeze(-1))  # [d, n, d]
    curvature = difference.movedim(0, 1)
    return height, gradient[0], (curvature + curvature.mT) / 2


def with_gradient(log_density: LogJoint, u: Tensor) -> tuple[Tensor, Tensor]:
    """A log-density [s, n] and its gradient [s, n, d] at u [s, n, d]."""
    u = u.detach().requires_grad_()
    with torch.enable_grad():
        height = log_density(u)
        (gradient,) = torch.autograd.grad(height.sum(), u)
    return height.detach(), gradient
