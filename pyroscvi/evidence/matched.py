"""A Gaussian for every cell whose scores are those of the posterior.

The score of a density is its gradient, d/du log p(u). If p is a Gaussian with mean m and covariance S, its scores have
the covariance 1/S, and a few draws with their scores give m and S. Batch and match takes draws of the last Gaussian,
and finds the Gaussian whose scores at these draws differ least from those of the posterior. A gradient of a cell costs
as much as two draws and gives d numbers instead of one, so that far fewer draws are needed than for moments. Draws
spread over the width of the Gaussian, so edges in the density (a decoder made of ReLUs) are averaged, which a curvature
at one point does not do.

Draws of earlier rounds are used again, with weights min(1, q_now(u) / q_then(u)).

References
    Cai, D. et al. (2024) Batch and match: black-box variational inference with a score-based divergence. ICML.
    arXiv:2402.14758
"""

from math import inf

import torch
from torch import Tensor

from pyroscvi.evidence.points import normal_points
from pyroscvi.evidence.proposals import Elliptical, Mixed, Proposal
from pyroscvi.evidence.refined import with_gradient

# How much a round counts beside the Gaussian that it starts from: little at first, because a few draws of a rough
# density can mislead it. A cell whose guide is far off is not there after so many rounds, and then jumps.
RATE, JUMP, DAMPED = 10.0, 1e4, 8
# Effective draws that a covariance from scores is as good as; fewer, the larger the spread of weights.
SCORE_DRAWS = 100.0
CLOSE = 0.6  # variance of log weights, in nats squared: a Gaussian so close to the posterior is good enough


class Matched(Proposal):
    """A Gaussian whose scores are those of the posterior, from the guide's Gaussian on.

    A cell leaves when the log weights of its draws vary little, and after ``rounds`` at the latest.
    """

    rounds: int = 12

    def forward(self, q, log_joint):
        n, d = q.loc.shape
        result, spread, rest = q, torch.full_like(q.loc[:, 0], inf), torch.arange(n, device=q.loc.device)
        history: list[tuple[Tensor, ...]] = []
        for turn in range(self.rounds if d else 0):
            e = normal_points(2 * (d + 1), d, turn).to(q.loc)
            u = q.around(e[:, None].expand(-1, len(rest), -1))
            pieces = u.split(getattr(log_joint, "chunk", None) or len(u))
            height, score = map(torch.cat, zip(*(with_gradient(log_joint, piece) for piece in pieces), strict=True))
            log_q = q.log_prob(u)
            history.append((u, score, log_q))
            rate = RATE if turn < DAMPED else JUMP
            q = matched(q, rate, *(torch.cat(each) for each in zip(*history, strict=True)))
            variance = (height - log_q).var(0).nan_to_num(inf)
            result, spread = result.put(rest, q), spread.index_copy(0, rest, variance.expm1())
            far = variance > CLOSE
            if not far.any():
                break
            if not far.all() and hasattr(log_joint, "take"):
                left = far.nonzero().squeeze(-1)
                rest, q, log_joint = rest[left], q.take(left), log_joint.take(left)
                history = [tuple(each[:, left] for each in one) for one in history]
        parts = Elliptical(result.loc[None], result.scale_tril[None])
        return Mixed(parts, torch.ones_like(spread)[None], spread, (SCORE_DRAWS / (1 + spread))[None])


def matched(q: Elliptical, rate: float, u: Tensor, score: Tensor, log_q: Tensor) -> Elliptical:
    """The Gaussian whose scores differ least from these [s, n, d], at draws u [s, n, d] of the log-density [s, n].

    rate   how much they count beside q, where the last round ended
    """
    d = u.shape[-1]
    known = score.isfinite().all(-1)
    weight = (q.log_prob(u) - log_q).clamp(max=0).exp().where(known, 0.0)
    weight = weight / weight.sum(0).clamp(min=1e-300)  # without a single finite score q stays as it is
    # In coordinates in which q has mean 0 and covariance I
    e = torch.linalg.solve_triangular(q.scale_tril, (u - q.loc).permute(1, 2, 0), upper=False).permute(2, 0, 1)
    g = torch.einsum("nij,sni->snj", q.scale_tril, score.where(known.unsqueeze(-1), 0.0))
    (mean_e, var_e), (mean_g, var_g) = moments(e, weight), moments(g, weight)
    share = rate / (1 + rate)
    outer_e, outer_g = (mean.unsqueeze(-1) * mean.unsqueeze(-2) for mean in (mean_e, mean_g))
    # The covariance S solves S U S + S = V.
    U = rate * var_g + share * outer_g
    L = torch.linalg.cholesky(torch.eye(d).to(u) + rate * var_e + share * outer_e)
    values, axes = torch.linalg.eigh(L.mT @ U @ L)
    axes = L @ axes * (2 / (1 + (1 + 4 * values.clamp(min=0)).sqrt())).sqrt().unsqueeze(-2)
    covariance = axes @ axes.mT
    step = share * ((covariance @ mean_g.unsqueeze(-1)).squeeze(-1) + mean_e)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    factor = torch.where((failed > 0)[:, None, None], torch.eye(d).to(u), factor)  # where rounding made it singular
    return Elliptical(q.loc + (q.scale_tril @ step.unsqueeze(-1)).squeeze(-1), q.scale_tril @ factor)


def moments(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [n, d] and covariance [n, d, d] of values [s, n, d] under weights [s, n]."""
    mean = torch.einsum("sn,snd->nd", weight, values)
    deviation = values - mean
    return mean, torch.einsum("sn,sni,snj->nij", weight, deviation, deviation)
