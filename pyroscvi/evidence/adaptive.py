"""Adaptive importance sampling: a proposal that moves to where its own weights are large.

In every round, draws u_s of the proposal have weights (p(x, u_s) / q(u_s))^b, and the next proposal has their weighted
mean and covariance. The power b <= 1 is the largest that leaves every cell enough effective draws to estimate a
covariance, so that a proposal that is far off takes small steps. No gradients are needed: a decoder may be anything.

References
    Cappe, O. et al. (2008) Adaptive importance sampling in general mixture classes. Stat Comput 18, 447-459.
    doi:10.1007/s11222-008-9059-x
    Koblents, E. & Miguez, J. (2015) A population Monte Carlo scheme with transformed weights and its application to
    stochastic kinetic models. Stat Comput 25, 407-425. doi:10.1007/s11222-013-9440-2
"""

from math import inf, log, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from pyroscvi.evidence.proposals import Elliptical, GuideDraws, LogJoint, Mixed, Proposal, components

__all__ = ["Adaptive"]

PIECE = 64  # draws at once, where memory allows it
DRAWS_PER_DIMENSION = 4  # effective draws that a tempered round keeps
BISECTIONS = 30  # in the search for the power b
SEARCH, MAX_DEFICIT = 2, 15.0  # after so many rounds, components this many nats below the best are left alone
FLOOR = 1e7  # nats below the best draw: a weight of zero, but a finite logarithm


class Adaptive(Proposal):
    """Student-t with the moments of the posterior, estimated by tempered rounds of importance sampling.

    Every component of a mixture (each level of what the model enumerates) has its own, weighted by the component's
    evidence in the last round. Components that are improbable after two rounds are not adapted any further. One draw in
    ten comes from where the rounds started: the guide, or ``start=Refined()``. The rounds use the same points for every
    cell (a scrambled Sobol sequence); the draws of the estimate are new ones.
    """

    method: ClassVar[str] = "adaptive"

    rounds: int = 6
    draws: int = 512
    df: float = 5.0
    widen: float = 1.15
    start: Proposal = GuideDraws()

    @torch.no_grad()
    def forward(self, q, log_joint):
        own = Elliptical(q.loc, self.widen * q.scale_tril, self.df)
        densities, piece = components(log_joint), min(getattr(log_joint, "chunk", None) or PIECE, PIECE)
        start = self.start(q, log_joint)
        parts = list(start.parts[: len(densities)]) if isinstance(start, Mixed) else [own] * len(densities)
        log_evidence = torch.zeros(len(parts), len(q.loc)).to(q.loc)
        for turn in range(self.rounds):
            probable = log_evidence > log_evidence.amax(0) - MAX_DEFICIT
            active = probable if turn >= SEARCH else torch.ones_like(probable)
            for k, part in enumerate(parts):
                rows = active[k].nonzero().squeeze(-1)
                if len(rows) == len(own.loc):
                    log_evidence[k], parts[k] = self.adapted(part, densities[k], turn, piece)
                elif len(rows):
                    density = components(log_joint.take(rows))[k]
                    log_evidence[k, rows], adapted = self.adapted(part.take(rows), density, turn, piece)
                    parts[k] = part.put(rows, adapted)
        weights = 0.9 * log_evidence.softmax(0)
        return Mixed((*parts, own), torch.cat([weights, torch.full_like(weights[:1], 0.1)]))

    def adapted(self, q: Elliptical, log_joint: LogJoint, turn: int, piece: int) -> tuple[Tensor, Elliptical]:
        """The estimate of log p(x) [n] from draws of q, and the next proposal."""
        n, d = q.loc.shape
        u = q.around(sobol(self.draws, d, self.df, turn)[:, None].to(q.loc).expand(-1, n, -1))
        log_w = torch.cat([log_joint(draws) - q.log_prob(draws) for draws in u.split(piece)])
        log_w = log_w.nan_to_num(-inf, posinf=-inf)
        log_w = log_w.clamp(min=log_w.amax(0) - FLOOR)
        effective = min(DRAWS_PER_DIMENSION * d + 10, self.draws // 2)
        weight = (power(log_w, effective) * log_w).softmax(0)  # [s, n]
        mean = torch.einsum("sn,snd->nd", weight, u)
        deviation = u - mean
        covariance = torch.einsum("sn,sni,snj->nij", weight, deviation, deviation)
        # A covariance from few draws is noisy: it is averaged with the one that the draws had.
        size = 1 / weight.square().sum(0)[:, None, None]
        previous = (q.scale_tril @ q.scale_tril.mT) / self.widen**2
        covariance = (size * covariance + d * previous) / (size + d)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        factor = torch.where((failed > 0)[:, None, None], q.scale_tril / self.widen, factor)
        return log_w.logsumexp(0) - log(self.draws), Elliptical(mean, self.widen * factor, self.df)


def power(log_w: Tensor, size: int) -> Tensor:
    """The largest power of the weights [s, n], at most one, that leaves ``size`` of them effective [n]."""

    def sufficient(power: Tensor) -> Tensor:
        return 1 / (power * log_w).softmax(0).square().sum(0) >= size

    log_w = log_w - log_w.amax(0)
    low, high = torch.zeros_like(log_w[0]), torch.ones_like(log_w[0])
    untempered = sufficient(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fits = sufficient(middle)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.where(untempered, torch.ones_like(low), low)


def sobol(s: int, d: int, df: float, seed: int) -> Tensor:
    """Quasi-random points of a standard Student-t [s, d], which cover it more evenly than random ones."""
    points = torch.quasirandom.SobolEngine(d + 1, scramble=True, seed=seed).draw(s, dtype=torch.float64)
    points = points.clamp(1e-9, 1 - 1e-9)
    normal = sqrt(2) * torch.erfinv(2 * points[:, :d] - 1)
    if df == inf:
        return normal
    # Wilson and Hilferty's cube approximates a chi-square number to three digits, which is enough here.
    cube = 1 - 2 / (9 * df) + sqrt(2 / (9 * df)) * sqrt(2) * torch.erfinv(2 * points[:, d] - 1)
    return normal / cube.clamp(min=0.1).pow(1.5).unsqueeze(-1)
