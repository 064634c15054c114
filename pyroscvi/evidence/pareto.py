"""Pareto k-hat: how heavy the tail of importance weights is, and so how far an estimate from them can be trusted."""

from math import ceil, sqrt

import torch
from torch import Tensor

__all__ = ["MAX_K_HAT", "NO_K_HAT", "k_hat"]

MAX_K_HAT = 0.7  # above it neither an estimate nor its error means much
NO_K_HAT = 20  # draws: as many or fewer have no k-hat


def k_hat(log_weight: Tensor) -> Tensor:
    """The shape of a generalised Pareto fitted to the largest weights of every cell [n], from log weights [s, n].

    Below 0.5 the weights have a variance; above 0.7 neither an estimate nor its standard error means much [Vehtari et
    al., 2024, JMLR 25, 1-58]. It is NaN for 20 draws or fewer, and minus infinity where weights do not vary. It does
    not detect a mode that no draw has visited.
    """
    s = len(log_weight)
    tail = ceil(min(0.2 * s, 3 * sqrt(s)))
    if tail < 5:
        return log_weight.new_full(log_weight.shape[1:], torch.nan)
    top = log_weight.topk(tail + 1, 0).values.flip(0)
    weight = (top - top[-1]).exp()
    excess = (weight[1:] - weight[0]).clamp(min=1e-300)  # beside one dominant weight the others may underflow
    varies = top[-1] - top[0] > 1e-9
    return torch.where(
        varies, _shape(torch.where(varies, excess, torch.linspace(1, 2, tail).to(excess)[:, None])), -torch.inf
    )


def _shape(x: Tensor) -> Tensor:
    """The shape of a generalised Pareto [n], for excesses x [m, n] in rising order.

    It is an average over a grid of b = -k / sigma, weighted by profile likelihood [Zhang & Stephens, 2009,
    Technometrics 51, 316-325], and shrunk towards 1/2 as by ten more excesses.
    """
    m = len(x)
    grid = 30 + int(sqrt(m))
    i = torch.arange(1, grid + 1, dtype=x.dtype, device=x.device)[:, None]
    quartile = x[int(m / 4 + 0.5) - 1]
    b = 1 / x[-1] + (1 - (grid / (i - 0.5)).sqrt()) / (3 * quartile)  # [grid, n]
    k = torch.log1p(-b[:, None] * x).mean(1)
    profile = m * ((-b / k).log() - k - 1)
    mean_b = (profile.softmax(0) * b).sum(0)
    return (m * torch.log1p(-mean_b * x).mean(0) + 5) / (m + 10)
