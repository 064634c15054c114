"""Adaptive importance sampling: a mixture of proposals that moves to where its own weights are large.

In every round, draws u_s come from one mixture q over the components k of the model. Each draw is decoded once, which
gives its weights under all components, p(x, u_s, k) / q(u_s). Part k of the next mixture has the mean and covariance of
the draws with the weights of component k, and the component's evidence as its weight. So a component that does not
explain a cell gets no draws. As long as the weights of a component are too uneven to estimate a covariance, they are
raised to a power b < 1, the largest that leaves enough effective draws: a proposal that is far off takes small steps.
These rounds need no gradients; only the Gaussian that they start from does (``matched``).

References
    Cappe, O. et al. (2008) Adaptive importance sampling in general mixture classes. Stat Comput 18, 447-459.
    doi:10.1007/s11222-008-9059-x
    Koblents, E. & Miguez, J. (2015) A population Monte Carlo scheme with transformed weights and its application to
    stochastic kinetic models. Stat Comput 25, 407-425. doi:10.1007/s11222-013-9440-2
"""

from math import inf, log
from typing import ClassVar

import torch
from torch import Tensor

from pyroscvi.evidence.at_components import AtComponents
from pyroscvi.evidence.points import student_points
from pyroscvi.evidence.proposals import (
    Elliptical,
    LogJoint,
    Mixed,
    Proposal,
    beside,
    by_component,
    widened,
    widening,
)  # fmt: skip

PER_DIMENSION = 12  # draws in a round at least
DRAWS_PER_DIMENSION = 4  # effective draws that a tempered round keeps
MIN_EFFECTIVE = 8.0
BISECTIONS = 20  # in the search for the power b
SEARCH_ROUNDS = 2  # rounds in which a mixture draws from every component
SEARCHED = 3.0  # nats: no component counts for less in these rounds, beside the best
MAX_DEFICIT = 15.0  # afterwards, components this many nats below the best get no draws
NEGLIGIBLE = 5.0  # nats: how well a component so far below the best is covered does not matter
SUFFICIENT = 1.8  # spread of weights in the first round: another round would cost more draws than it saves
GROWTH, SEARCHING = 1.5, 3  # draws of a round, beside the round before; beside the first, in a search
OWN = 0.1  # share of the draws that come from the last part
FLOOR, IMPOSSIBLE = 1e7, -1e30  # nats: below the best draw a weight is zero; the logarithm of a density of zero


class Adaptive(Proposal):
    """Student-t with the moments of the posterior, estimated by tempered rounds of importance sampling.

    Every component of a mixture (each level of what the model enumerates) has a part (``AtComponents`` says where it
    starts). Or the rounds start at the modes: ``start=Refined()``. A cell leaves the rounds when enough of its draws
    are effective. The rounds use the same points for every cell (a scrambled Sobol sequence); the draws of the estimate
    are new ones, and one in ten comes from the last part: the guide's, or the matched Gaussian where components have
    priors of their own.
    """

    method: ClassVar[str] = "adaptive"

    rounds: int = 5
    draws: int = 128  # in the first round; three times as many where components are searched
    start: Proposal = AtComponents()

    @torch.no_grad()
    def forward(self, q, log_joint):
        start: Mixed = self.start(q, log_joint)
        draws = start._replace(parts=start.parts._replace(df=widened(q).df))
        rest, some, joint = torch.arange(len(q.loc), device=q.loc.device), draws, log_joint
        for turn in range(self.rounds):
            some, done = self.adapted(some, joint, turn)
            draws = draws.put(rest, some)
            if done.all():
                break
            if done.any() and hasattr(joint, "take"):
                left = (~done).nonzero().squeeze(-1)
                rest, some, joint = rest[left], some.take(left), joint.take(left)
        return draws.compact()

    def adapted(self, draws: Mixed, log_joint: LogJoint, turn: int) -> tuple[Mixed, Tensor]:
        """The next mixture, and the cells that need no more."""
        (_, n, d), even = draws.parts.loc.shape, flattened(draws)
        searching = len(draws.weights) > 2 and turn < SEARCH_ROUNDS
        s = int(max(self.draws, PER_DIMENSION * d) * (SEARCHING if searching else GROWTH**turn))
        e, uniform = (t.to(draws.weights) for t in student_points(s, d, draws.parts.df, turn))
        u = even.at(e[:, None].expand(-1, n, -1), uniform[:, None])
        piece, densities = getattr(log_joint, "chunk", None) or s, by_component(log_joint)
        log_p = torch.cat([densities(some) for some in u.split(piece)], 1).nan_to_num(IMPOSSIBLE, posinf=IMPOSSIBLE)
        log_w = (log_p - even.log_prob(u)).clamp(min=IMPOSSIBLE)  # [k, s, n]

        # Of the draws that a part gives, a third are effective, or enough for a covariance.
        effective = (s * even.weights[:-1] / 3).clamp(MIN_EFFECTIVE, max(DRAWS_PER_DIMENSION * d + 10, MIN_EFFECTIVE))
        b = power(log_w.clamp(min=log_w.amax(1, keepdim=True) - FLOOR), effective)
        before = draws.size[:-1].where((b == 1) | (turn == 0), 0.0)  # tempered draws are wider than their component
        parts, size = moments(draws.parts, before, (b.unsqueeze(1) * log_w).softmax(1), u)

        log_evidence = log_w.logsumexp(1) - log(s)
        deficit = log_evidence.amax(0) - log_evidence
        last = not searching or turn + 1 == SEARCH_ROUNDS
        log_weights = -deficit.masked_fill(deficit > MAX_DEFICIT, inf) if last else -deficit.clamp(max=SEARCHED)
        # The variance of weights p / q, estimated with draws of another q
        log_w = log_w.logsumexp(0)
        log_square = log_w + log_p.logsumexp(0) - draws.log_prob(u)
        spread = ((log_square.logsumexp(0) - 2 * log_w.logsumexp(0)).exp() * s - 1).clamp(min=0)
        untempered = ((b == 1) | (deficit > NEGLIGIBLE)).all(0)
        done = untempered & (spread <= SUFFICIENT * GROWTH**turn) & last  # later rounds cost more
        return beside(parts, log_weights, draws.parts.part(-1), OWN, spread, size.where(b == 1, 0.0)), done


def flattened(draws: Mixed) -> Mixed:
    """The mixture with more equal weights, so that improbable components get enough draws for their moments too."""
    *_, own = weights = draws.weights
    even = weights[:-1].sqrt()
    return draws._replace(weights=torch.cat([even / even.sum(0) * (1 - own), own[None]]))


def moments(parts: Elliptical, before: Tensor, weight: Tensor, u: Tensor) -> tuple[Elliptical, Tensor]:
    """Student-t with the means and covariances of draws u [s, n, d] under weights [k, s, n], and the effective draws.

    The last parts, with as many effective draws as ``before`` says [k, n], are averaged in. A covariance from few draws
    is noisy, so that of the last parts counts for d more draws.
    """
    d, last = u.shape[-1], parts.loc[:-1]
    narrow = parts.scale_tril[:-1] / widening(d)
    size = 1 / weight.square().sum(1)
    total = before + size
    mean = torch.einsum("ksn,snd->knd", weight, u)
    deviation = (u - mean.unsqueeze(1)).transpose(1, 2)  # [k, n, s, d]
    covariance = (deviation * weight.transpose(1, 2).unsqueeze(-1)).mT @ deviation
    step = (mean - last).unsqueeze(-1)
    between = (before * size / total)[..., None, None] * (step @ step.mT)
    pooled = size[..., None, None] * covariance + (before + d)[..., None, None] * (narrow @ narrow.mT) + between
    factor, failed = torch.linalg.cholesky_ex(pooled / (total + d)[..., None, None])
    factor = torch.where((failed > 0)[..., None, None], narrow, factor)
    return widened(Elliptical(last + (size / total).unsqueeze(-1) * step.squeeze(-1), factor)), total


def power(log_w: Tensor, size: Tensor) -> Tensor:
    """The largest power of the weights [k, s, n], at most one, that leaves ``size`` [k, n] of them effective [k, n]."""

    def sufficient(power: Tensor) -> Tensor:
        return 1 / (power.unsqueeze(1) * log_w).softmax(1).square().sum(1) >= size

    low, high = torch.zeros_like(log_w[:, 0]), torch.ones_like(log_w[:, 0])
    untempered = sufficient(high)
    for _ in range(0 if untempered.all() else BISECTIONS):
        middle = (low + high) / 2
        fits = sufficient(middle)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.where(untempered, torch.ones_like(low), low)
