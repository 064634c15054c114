"""Annealed importance sampling: from the proposal to the posterior in many small steps, each of which is easy.

    log f_b(u) = (1 - b) log q(u) + b log p(x, u),      0 = b_0 < b_1 < ... < b_T = 1

    u_0 ~ q,   u_t ~ HMC that leaves f_{b_t} invariant, from u_{t-1}
    log w = sum_t (b_t - b_{t-1}) (log p(x, u_{t-1}) - log q(u_{t-1})),      E w = p(x)

Whatever the moves, as long as they were settled beforehand: step sizes are learnt by a few pilot chains, for every
cell and temperature, and then held. Leapfrog steps are taken in coordinates that the proposal's scale has made round,
so that one step size does for all directions and half a dozen steps cross the posterior. A chain that is run backwards,
from a draw of the posterior to the proposal, has the weight that this draw would have had: the other end of the
sandwich.

HMC climbs no mountains. What the proposal does not reach, no chain does: only the certificate sees that.

References
    Neal, R. M. (2001) Annealed importance sampling. Stat Comput 11, 125-139. arXiv:physics/9803008
    Neal, R. M. (2011) MCMC using Hamiltonian dynamics. Handbook of Markov chain Monte Carlo, chapter 5. arXiv:1206.1901
    Wu, Y. et al. (2017) On the quantitative analysis of decoder-based generative models. ICLR. arXiv:1611.04273
"""

from functools import partial
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from pyroscvi.evidence.adaptive import Adaptive
from pyroscvi.evidence.estimator import Estimator, Found, Target, weighed
from pyroscvi.evidence.proposals import Draws, LogJoint, Proposal
from pyroscvi.evidence.refined import Refined
from pyroscvi.evidence.streams import Streams

__all__ = ["Annealed"]

PILOT, BACKWARDS = 101, 102  # purposes of streams
FIRST, LONGEST = 0.5, 1.5  # step sizes, in standard deviations
ACCEPTED = 0.8  # the share of moves that step sizes aim at
LEARNING = 0.5


class Annealed(Estimator):
    """Independent chains from a proposal to the posterior. It is they that are averaged, not ``particles`` draws."""

    chains: int = 16
    temperatures: int = 50
    leapfrogs: int = 5
    pilots: int = 4
    start: Proposal = Adaptive(start=Refined())

    def forward(self, target, particles=1000):
        return self.onwards(self.start(target.q, target.log_joint), target)

    def onwards(self, draws: Draws, target: Target) -> Found:
        """Anneal from draws that are there already."""
        path = Path(target.log_joint, draws, self.temperatures, self.leapfrogs, target.chunk)
        steps = path.pilot(self.pilots, target.streams.anew(PILOT))
        log_w = path.forwards(self.chains, steps, target.streams)
        of_truth = partial(path.backwards, steps, target.streams.anew(BACKWARDS))
        found = weighed(log_w, of_truth, target, "annealed")
        # So few weights do not know their own spread: an error is that of a Student-t with as many degrees of freedom.
        wider = sqrt((self.chains - 1) / max(self.chains - 3, 1))
        error = wider * found.estimate.monte_carlo_se
        return found._replace(estimate=found.estimate._replace(monte_carlo_se=error))


class State(NamedTuple):
    """Where chains are u [s, n, d], and both log-densities [s, n] and their slopes [s, n, d] there."""

    u: Tensor
    log_p: Tensor
    log_q: Tensor
    slope_p: Tensor
    slope_q: Tensor

    def at(self, b: float) -> tuple[Tensor, Tensor]:
        """log f_b and its slope."""
        return torch.lerp(self.log_q, self.log_p, b), torch.lerp(self.slope_q, self.slope_p, b)

    def or_else(self, stays: "State", moves: Tensor) -> "State":
        """These states where chains have moved [s, n], and the others' where not."""
        pairs = zip(self, stays, strict=True)
        return State(*(torch.where(moves if a.dim() == 2 else moves.unsqueeze(-1), a, b) for a, b in pairs))


class Path:
    """The way from draws of a proposal to the posterior, and back."""

    def __init__(self, log_joint: LogJoint, draws: Draws, temperatures: int, leapfrogs: int, chunk: int | None):
        if temperatures < 1 or leapfrogs < 1:
            raise ValueError(f"annealing takes one temperature and one leapfrog at least: {temperatures}, {leapfrogs}")
        self.log_joint, self.draws, self.leapfrogs, self.chunk = log_joint, draws, leapfrogs, chunk
        self.b = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64).tolist()
        self.factor = draws.factor()

    def forwards(self, chains: int, steps: list[Tensor], streams: Streams) -> Tensor:
        """Log weights of chains from the proposal to the posterior [chains, n]."""
        state = self.look(self.draws.sample(streams, chains))
        log_w = self.b[1] * (state.log_p - state.log_q)
        for t in range(1, len(self.b) - 1):
            state, _ = self.move(state, self.b[t], steps[t], streams)
            log_w += (self.b[t + 1] - self.b[t]) * (state.log_p - state.log_q)
        return log_w

    def backwards(self, steps: list[Tensor], streams: Streams, u: Tensor) -> Tensor:
        """Log weight [n] of a chain from a draw of the posterior u [n, d] to the proposal."""
        state = self.look(u[None])
        log_w = (1 - self.b[-2]) * (state.log_p - state.log_q)
        for t in range(len(self.b) - 2, 0, -1):
            state, _ = self.move(state, self.b[t], steps[t], streams)
            log_w += (self.b[t] - self.b[t - 1]) * (state.log_p - state.log_q)
        return log_w[0]

    def pilot(self, chains: int, streams: Streams) -> list[Tensor]:
        """Step sizes of every cell [n], at every temperature [Robbins & Monro, 1951], from chains that then go."""
        state = self.look(self.draws.sample(streams, chains))
        steps = [torch.full_like(state.log_p[0], FIRST)]
        for b in self.b[1:-1]:
            state, accepted = self.move(state, b, steps[-1], streams)
            longer = (LEARNING * (accepted.mean(0) - ACCEPTED)).exp()
            steps.append((steps[-1] * longer).clamp(max=LONGEST))
        return steps

    def move(self, state: State, b: float, step: Tensor, streams: Streams) -> tuple[State, Tensor]:
        """One proposal of Hamiltonian Monte Carlo at temperature b, and how probable it was to be accepted [s, n]."""
        s, _, d = state.u.shape
        momentum = streams.normal(s, d).to(state.u)
        # Lengths vary, for a trajectory that comes back to where it began moves nobody.
        length = step * (0.8 + 0.4 * streams.uniform(s).to(step))
        lottery = streams.uniform(s).to(step)
        length = length.unsqueeze(-1)
        height, slope = state.at(b)
        energy = height - 0.5 * momentum.square().sum(-1)
        there = state
        for _ in range(self.leapfrogs):
            momentum = momentum + 0.5 * length * self.uphill(slope)
            there = self.look(there.u + length * torch.einsum("nij,snj->sni", self.factor, momentum))
            height, slope = there.at(b)
            momentum = momentum + 0.5 * length * self.uphill(slope)
        gain = height - 0.5 * momentum.square().sum(-1) - energy
        accepted = gain.clamp(max=0).exp().nan_to_num(0.0)
        return there.or_else(state, lottery < accepted), accepted

    def uphill(self, slope: Tensor) -> Tensor:
        """L' slope: the slope in round coordinates [s, n, d]."""
        return torch.einsum("nij,sni->snj", self.factor, slope)

    def look(self, u: Tensor) -> State:
        """Densities and slopes at u [s, n, d], ``chunk`` draws at a time."""
        pieces = [self._look(piece) for piece in u.split(self.chunk or len(u))]
        return pieces[0] if len(pieces) == 1 else State(*(torch.cat(each) for each in zip(*pieces, strict=True)))

    def _look(self, u: Tensor) -> State:
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            log_p, log_q = self.log_joint(u), self.draws.log_prob(u)
            (slope_p,) = torch.autograd.grad(log_p.sum(), u)
            (slope_q,) = torch.autograd.grad(log_q.sum(), u)
        return State(u.detach(), log_p.detach(), log_q.detach(), slope_p, slope_q)
