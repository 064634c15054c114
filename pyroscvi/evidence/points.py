"""Points that cover a density more evenly than random ones: scrambled Sobol sequences, the same for every cell."""

from math import sqrt

import torch
from torch import Tensor

EDGE = 1e-9  # uniform numbers stay so far from 0 and 1


def uniform_points(s: int, d: int, seed: int) -> Tensor:
    """Points of the unit cube [s, d]."""
    points = torch.quasirandom.SobolEngine(d, scramble=True, seed=seed).draw(s, dtype=torch.float64)
    return points.clamp(EDGE, 1 - EDGE)


def normal_points(s: int, d: int, seed: int) -> Tensor:
    """Points of a standard normal [s, d], each with its mirror image; s is even."""
    half = normal_quantile(uniform_points(s // 2, d, seed))
    return torch.cat([half, -half])


def student_points(s: int, d: int, df: float, seed: int) -> tuple[Tensor, Tensor]:
    """Points of a standard Student-t [s, d], and uniform numbers [s]."""
    points = uniform_points(s, d + 2, seed)
    # Wilson and Hilferty's cube approximates a chi-square number to three digits, which is enough here.
    cube = 1 - 2 / (9 * df) + sqrt(2 / (9 * df)) * normal_quantile(points[:, d])
    return normal_quantile(points[:, :d]) / cube.clamp(min=0.1).pow(1.5).unsqueeze(-1), points[:, -1]


def normal_quantile(p: Tensor) -> Tensor:
    """The standard normal number below which a share p of them lies."""
    return sqrt(2) * torch.erfinv(2 * p - 1)
