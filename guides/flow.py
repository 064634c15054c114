"""Flow: given its counts, the latents of a cell may have any shape: skewed, curved, correlated.

    h     = f(log(1 + x))
    u(0)  = mu(h) + sigma(h) e,   e ~ Normal(0, I)
    u(t)  = a_t(u(t-1), h) u(t-1) + b_t(u(t-1), h)                t = 1 .. steps, and z = u(steps)

Coordinate j of a_t > 0 and b_t depends on the coordinates before j only, in an order of its own for each step. So the
Jacobian is triangular, and the density is that of u(0) divided by the product of all a_t (inverse autoregressive flow).
a_t and b_t come from a masked network with one hidden layer of ``hidden`` units. Two cases are mean field: a latent of
one number, which a step could only shift and scale, and latents that all cells share, which depend on no h.

No KL divergence from the prior has a closed form, so the ELBO is noisier than that of a Gaussian guide.

Example: the density of posterior samples, 3 of each of 20 cells.

    >>> import torch
    >>> from pyroscvi.models import SCVI
    >>> from pyroscvi.data import Fields, simulated
    >>> cells = Fields(batch="batch").read(simulated(cells=20, genes=5))
    >>> q = Flow().sized(SCVI(latent=4).sized(cells.dims), cells).posteriors(cells)["z"]
    >>> q.log_prob(q.rsample((3,))).shape
    torch.Size([3, 20])

References
    Kingma, D. P. et al. (2016) Improved variational inference with inverse autoregressive flow. NeurIPS.
    arXiv:1606.04934
"""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import ConditionalAffineAutoregressive
from pyro.nn import ConditionalAutoRegressiveNN
from torch import nn
from torch.nn.functional import softplus

from pyroscvi.program import Guide
from pyroscvi.ranges import PositiveInt

__all__ = ["Flow"]


class Flow(Guide):
    steps: PositiveInt = 2
    hidden: PositiveInt = 64

    def head(self, width, size):
        return Steps(width, size, 0 if size == 1 or width == 1 else self.steps, max(self.hidden, size))

    def posterior(self, parameters):
        mu, raw_sigma, steps = parameters
        gaussian = dist.Normal(mu, softplus(raw_sigma) + 1e-4).to_event(1)
        return dist.TransformedDistribution(gaussian, steps) if steps else gaussian


class Steps(nn.Module):
    """Predicts mu and sigma (before its softplus) [..., size], and the steps of the flow, from h [..., width]."""

    steps: Any

    def __init__(self, width: int, size: int, steps: int, hidden: int):
        super().__init__()
        orders: list[Any] = [torch.arange(size), torch.arange(size).flip(0)]
        networks = [ConditionalAutoRegressiveNN(size, width, [hidden], permutation=orders[t % 2]) for t in range(steps)]
        self.steps = nn.ModuleList([ConditionalAffineAutoregressive(network, stable=True) for network in networks])
        self.out = nn.Linear(width, 2 * size)

    def forward(self, h):
        return *self.out(h).chunk(2, -1), [step.condition(h) for step in self.steps]
