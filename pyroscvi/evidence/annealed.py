"""Annealed importance sampling: from the proposal to the posterior in many small steps, each of which is easy.

    log f_b(u) = (1 - b) log q(u) + b log p(x, u),      0 = b_0 < b_1 < ... < b_T = 1

    u_0 ~ q,   u_t ~ an HMC kernel that leaves f_{b_t} invariant, from u_{t-1}
    log w = sum_t (b_t - b_{t-1}) (log p(x, u_{t-1}) - log q(u_{t-1})),      E w = p(x)

E w = p(x) holds for any kernels that are fixed beforehand. So a few pilot chains choose the step size for every cell
and temperature, which is then held. Leapfrog steps are taken in coordinates in which the proposal has unit scale: one
step size then suits all directions, and half a dozen steps cross the posterior. A backward chain, from a draw of the
posterior to the proposal, gives the weight that this draw would have had, for the upper bound of a certificate.

HMC does not cross regions of low density. A mode that the proposal misses is missed by all chains, and only the
certificate shows it.

References
    Neal, R. M. (2001) Annealed importance sampling. Stat Comput 11, 125-139. arXiv:physics/9803008
    Neal, R. M. (2011) MCMC using Hamiltonian dynamics. Handbook of Markov chain Monte Carlo, chapter 5. arXiv:1206.1901
    Wu, Y. et al. (2017) On the quantitative analysis of decoder-based generative models. ICLR. arXiv:1611.04273
"""

from math import sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyroscvi.evidence.adaptive import Adaptive
from pyroscvi.evidence.estimator import Estimator, Result, Target, upper_bound
from pyroscvi.evidence.importance import estimate
from pyroscvi.evidence.proposals import Draws, LogJoint, Proposal
from pyroscvi.evidence.refined import Refined, with_gradient
from pyroscvi.evidence.streams import Streams

PILOT, BACKWARD = 101, 102  # purposes of streams
FIRST_STEP, MAX_STEP = 0.5, 1.5  # step sizes, in standard deviations
ACCEPTANCE = 0.8  # the acceptance rate that step sizes aim at
LEARNING_RATE = 0.5  # of the log step size, in the pilot chains


class Annealed(Estimator):
    """Independent chains from a proposal to the posterior; the average is over ``chains``, not over ``particles``."""

    chains: int = 16
    temperatures: int = 50
    leapfrogs: int = 5
    pilots: int = 4
    start: Proposal = Adaptive(start=Refined())

    def forward(self, target, particles=1000):
        return self.from_draws(self.start(target.q, target.joint), target)

    def from_draws(self, draws: Draws, target: Target) -> Result:
        """Anneal from this proposal to the posterior."""
        path = Path(target.joint, draws, self.temperatures, self.leapfrogs, target.chunk)
        step_sizes = path.pilot(self.pilots, target.streams.anew(PILOT))
        log_w = path.forward(self.chains, step_sizes, target.streams)
        upper = None
        if target.truth is not None:
            known = path.backward(step_sizes, target.streams.anew(BACKWARD), target.truth)
            upper = upper_bound(log_w, known, torch.full_like(known, self.chains))
        # The spread of so few weights is uncertain: use the variance of a Student-t with chains - 1 degrees of freedom.
        inflation, result = sqrt((self.chains - 1) / max(self.chains - 3, 1)), estimate(log_w)
        result = result._replace(monte_carlo_se=inflation * result.monte_carlo_se)
        return Result(result, np.full(log_w.shape[1], "annealed", dtype=object), upper)


class State(NamedTuple):
    """Positions of chains u [s, n, d], with both log-densities [s, n] and their gradients [s, n, d] at u."""

    u: Tensor
    log_p: Tensor
    log_q: Tensor
    gradient_p: Tensor
    gradient_q: Tensor

    def at(self, b: float) -> tuple[Tensor, Tensor]:
        """log f_b and its gradient."""
        return torch.lerp(self.log_q, self.log_p, b), torch.lerp(self.gradient_q, self.gradient_p, b)

    def where(self, accepted: Tensor, current: "State") -> "State":
        """These states for the chains that accepted them [s, n], and the current states for the others."""
        pairs = zip(self, current, strict=True)
        return State(*(torch.where(accepted if a.dim() == 2 else accepted.unsqueeze(-1), a, b) for a, b in pairs))


class Path:
    """The tempered densities between a proposal and the posterior, and chains along them in both directions."""

    def __init__(self, log_joint: LogJoint, draws: Draws, temperatures: int, leapfrogs: int, chunk: int | None):
        if temperatures < 1 or leapfrogs < 1:
            raise ValueError(f"annealing takes one temperature and one leapfrog at least: {temperatures}, {leapfrogs}")
        self.log_joint, self.draws, self.leapfrogs, self.chunk = log_joint, draws, leapfrogs, chunk
        self.b = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64).tolist()
        self.factor = draws.factor()

    def forward(self, chains: int, step_sizes: list[Tensor], streams: Streams) -> Tensor:
        """Log weights of chains from the proposal to the posterior [chains, n]."""
        state = self.evaluate(self.draws.sample(streams, chains))
        log_w = self.b[1] * (state.log_p - state.log_q)
        for t in range(1, len(self.b) - 1):
            state, _ = self.kernel(state, self.b[t], step_sizes[t], streams)
            log_w += (self.b[t + 1] - self.b[t]) * (state.log_p - state.log_q)
        return log_w

    def backward(self, step_sizes: list[Tensor], streams: Streams, u: Tensor) -> Tensor:
        """Log weight [n] of a chain from a draw of the posterior u [n, d] to the proposal."""
        state = self.evaluate(u[None])
        log_w = (1 - self.b[-2]) * (state.log_p - state.log_q)
        for t in range(len(self.b) - 2, 0, -1):
            state, _ = self.kernel(state, self.b[t], step_sizes[t], streams)
            log_w += (self.b[t] - self.b[t - 1]) * (state.log_p - state.log_q)
        return log_w[0]

    def pilot(self, chains: int, streams: Streams) -> list[Tensor]:
        """Step sizes of every cell [n], one for each temperature [Robbins & Monro, 1951]; the chains are discarded."""
        state = self.evaluate(self.draws.sample(streams, chains))
        step_sizes = [torch.full_like(state.log_p[0], FIRST_STEP)]
        for b in self.b[1:-1]:
            state, acceptance = self.kernel(state, b, step_sizes[-1], streams)
            change = (LEARNING_RATE * (acceptance.mean(0) - ACCEPTANCE)).exp()
            step_sizes.append((step_sizes[-1] * change).clamp(max=MAX_STEP))
        return step_sizes

    def kernel(self, state: State, b: float, step_size: Tensor, streams: Streams) -> tuple[State, Tensor]:
        """One transition of Hamiltonian Monte Carlo at temperature b, and its acceptance probability [s, n]."""
        s, _, d = state.u.shape
        momentum = streams.normal(s, d).to(state.u)
        # Step sizes vary, because a trajectory that returns to its start would not move.
        step = step_size * (0.8 + 0.4 * streams.uniform(s).to(step_size))
        uniform = streams.uniform(s).to(step)
        step = step.unsqueeze(-1)
        log_f, gradient = state.at(b)
        energy = log_f - 0.5 * momentum.square().sum(-1)
        proposed = state
        for _ in range(self.leapfrogs):
            momentum = momentum + 0.5 * step * self.whitened(gradient)
            proposed = self.evaluate(proposed.u + step * torch.einsum("nij,snj->sni", self.factor, momentum))
            log_f, gradient = proposed.at(b)
            momentum = momentum + 0.5 * step * self.whitened(gradient)
        log_ratio = log_f - 0.5 * momentum.square().sum(-1) - energy
        acceptance = log_ratio.clamp(max=0).exp().nan_to_num(0.0)
        return proposed.where(uniform < acceptance, state), acceptance

    def whitened(self, gradient: Tensor) -> Tensor:
        """L' gradient: the gradient in coordinates in which the proposal has unit scale [s, n, d]."""
        return torch.einsum("nij,sni->snj", self.factor, gradient)

    def evaluate(self, u: Tensor) -> State:
        """Densities and gradients at u [s, n, d], ``chunk`` draws at a time."""
        states = []
        for piece in u.split(self.chunk or len(u)):
            log_p, gradient_p = with_gradient(self.log_joint, piece)
            log_q, gradient_q = with_gradient(self.draws.log_prob, piece)
            states.append(State(piece, log_p, log_q, gradient_p, gradient_q))
        return State(*(torch.cat(each) for each in zip(*states, strict=True)))
