"""Adaptive importance sampling: a proposal that looks at its own weights, and moves to where they say the mass is.

Round after round draws u_s of the proposal are weighed by (p(x, u_s) / q(u_s))^b, and the next proposal has their mean
and covariance. The power b <= 1 is the largest that leaves every cell enough effective draws to see a covariance
through, so that a proposal that is far off takes small steps. No gradients are taken: a decoder may be anything.

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

PIECE = 64  # draws at once, where there is room for them
FEWEST = 4  # effective draws for each dimension
HALVINGS = 30
SEARCH, HOPELESS = 2, 15.0  # rounds until a component that is this many nats below the best is given up
FARTHEST = 1e7  # nats below the best draw: no weight at all, and still a number


class Adaptive(Proposal):
    """Student-t with the moments of the posterior, as tempered rounds of importance sampling find them.

    Every component of a mixture (each level of what the model enumerates) has its own, weighed by what the last round
    says of its evidence; those that two rounds have shown to be improbable are left where they are. One draw in ten
    is left to what the rounds began with: the guide, or ``start=Refined()``. The rounds look at the same points for
    every cell (a scrambled Sobol sequence); the draws of the estimate are fresh ones.
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
        begun = self.start(q, log_joint)
        parts = list(begun.parts[: len(densities)]) if isinstance(begun, Mixed) else [own] * len(densities)
        masses = torch.zeros(len(parts), len(q.loc)).to(q.loc)
        for turn in range(self.rounds):
            alive = masses > masses.amax(0) - HOPELESS if turn >= SEARCH else masses == masses
            for k, part in enumerate(parts):
                rows = alive[k].nonzero().squeeze(-1)
                if len(rows) == len(own.loc):
                    masses[k], parts[k] = self.adapted(part, densities[k], turn, piece)
                elif len(rows):
                    few = components(log_joint.take(rows))[k]
                    masses[k, rows], found = self.adapted(part.take(rows), few, turn, piece)
                    parts[k] = part.put(rows, found)
        weights = 0.9 * masses.softmax(0)
        return Mixed((*parts, own), torch.cat([weights, torch.full_like(weights[:1], 0.1)]))

    def adapted(self, q: Elliptical, log_joint: LogJoint, turn: int, piece: int) -> tuple[Tensor, Elliptical]:
        """What these draws say of log p(x) [n], and the draws to try next."""
        n, d = q.loc.shape
        u = q.around(scattered(self.draws, d, self.df, turn)[:, None].to(q.loc).expand(-1, n, -1))
        log_w = torch.cat([log_joint(some) - q.log_prob(some) for some in u.split(piece)])
        log_w = log_w.nan_to_num(-inf, posinf=-inf)
        log_w = log_w.clamp(min=log_w.amax(0) - FARTHEST)
        few = min(FEWEST * d + 10, self.draws // 2)
        weight = (tempered(log_w, few) * log_w).softmax(0)  # [s, n]
        mean = torch.einsum("sn,snd->nd", weight, u)
        aside = u - mean
        covariance = torch.einsum("sn,sni,snj->nij", weight, aside, aside)
        # Few draws see a covariance badly: what they saw is weighed against the one that they were drawn with.
        seen = 1 / weight.square().sum(0)[:, None, None]
        before = (q.scale_tril @ q.scale_tril.mT) / self.widen**2
        covariance = (seen * covariance + d * before) / (seen + d)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        factor = torch.where((failed > 0)[:, None, None], q.scale_tril / self.widen, factor)
        return log_w.logsumexp(0) - log(self.draws), Elliptical(mean, self.widen * factor, self.df)


def tempered(log_w: Tensor, few: int) -> Tensor:
    """The largest power of the weights [s, n], one at most, under which ``few`` of them are effective [n]."""

    def effective(power: Tensor) -> Tensor:
        return 1 / (power * log_w).softmax(0).square().sum(0)

    log_w = log_w - log_w.amax(0)
    low, high = torch.zeros_like(log_w[0]), torch.ones_like(log_w[0])
    enough = effective(high) >= few
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        fits = effective(middle) >= few
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.where(enough, torch.ones_like(low), low)


def scattered(s: int, d: int, df: float, turn: int) -> Tensor:
    """Points that cover a Student-t more evenly than chance [s, d], others every turn."""
    points = torch.quasirandom.SobolEngine(d + 1, scramble=True, seed=turn).draw(s, dtype=torch.float64)
    points = points.clamp(1e-9, 1 - 1e-9)
    normal = sqrt(2) * torch.erfinv(2 * points[:, :d] - 1)
    if df == inf:
        return normal
    # Wilson and Hilferty's cube is a chi-square number to three digits, and nothing here depends on the third.
    cube = 1 - 2 / (9 * df) + sqrt(2 / (9 * df)) * sqrt(2) * torch.erfinv(2 * points[:, d] - 1)
    return normal / cube.clamp(min=0.1).pow(1.5).unsqueeze(-1)
