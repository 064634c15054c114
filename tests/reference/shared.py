"""Data sets whose cells share latents, and whose evidence is known: in closed form, or by quadrature.

    shared-mean       m ~ Normal(0, tau), y_n ~ Normal(m, sigma)                             Gaussian
    factors           the same, and z_n ~ Normal(0, I), y_n ~ Normal(m + W z_n, sigma)       Gaussian
    gamma-poisson     lam_g ~ Gamma(a, b), x_ng ~ Poisson(lam_g l_n)                         negative multinomial
    nb                theta_g ~ LogNormal or Gamma, x_ng ~ NB(mu_ng, theta_g)                an integral a gene
    nb-cells          one theta, z_n ~ Normal(0, 1), x_ng ~ NB(exp(b_g + v_g z_n), theta)    an integral of integrals
    nb-mixture        the same with z_n from a mixture whose component is summed out
    loadings          W_g ~ Normal(0, s), z_n ~ Normal(0, 1), y_n ~ Normal(W z_n + c, sigma)  a grid over W
    turned loadings   the same with two factors, which may be turned into each other         a grid over W W'

Likelihoods are written out here once more, from textbooks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, lgamma

from pyroscvi.data.cells import Cells
from pyroscvi.distributions import Log1pNormal
from pyroscvi.guides import MeanField
from pyroscvi.handlers import as_scored
from pyroscvi.parts import (
    NB,
    Dispersion,
    Exponential,
    GammaDispersion,
    Linear,
    NormalLoadings,
    RandomDispersion,
    ReadCell,
)
from pyroscvi.program import Model

from .problems import log_nb

__all__ = ["SHARED", "Loading", "SharedMean", "SharedTheta", "ThetaAndCells", "Whole", "generated", "read"]


@dataclass
class Whole:
    """A page, cells that it has generated, a guide that knows little, and log p(x_1 .. x_N)."""

    model: Model
    cells: Cells
    exact: float

    @property
    def pair(self) -> tuple[Model, Any]:
        return read(self.model, self.cells)


# Gaussian


class SharedMean(Model):
    """m ~ Normal(0, tau), y_n ~ Normal(m + W z_n, sigma), y = log(1 + x)."""

    genes: int = 6
    latent: int = 0
    tau: float = 1.5
    sigma: float = 0.7

    def build(self, dims):
        self.register_buffer("W", torch.randn(self.genes, self.latent))
        self.register_buffer("origin", torch.zeros(self.genes))

    def model(self, cells):
        m = pyro.sample("m", dist.Normal(self.origin, self.tau).to_event(1))
        log_sigma = torch.full_like(self.origin, log(self.sigma))
        with cells.plate():
            loc = m + torch.zeros(len(cells), 1).to(self.origin)
            if self.latent:
                z = pyro.sample("z", dist.Normal(torch.zeros(self.latent).to(self.origin), 1.0).to_event(1))
                loc = loc + z @ self.W.T
            pyro.sample("x", Log1pNormal(loc, log_sigma), obs=cells.x)

    def by_hand(self, cells: Cells) -> Tensor:
        n, g = cells.x.shape
        one = self.W @ self.W.T + self.sigma**2 * torch.eye(g)
        common = torch.kron(torch.ones(n, n).double(), self.tau**2 * torch.eye(g).double())
        covariance = torch.kron(torch.eye(n).double(), one.double()) + common
        return dist.MultivariateNormal(torch.zeros(n * g).double(), covariance).log_prob(cells.x.log1p().flatten())


class Loading(Model):
    """W ~ Normal(0, s), z_n ~ Normal(0, I), y_n ~ Normal(W z_n, sigma), y = log(1 + x)."""

    genes: int = 3
    latent: int = 1
    sigma: float = 0.5
    decoder: Linear = Linear(bias=False, loadings=NormalLoadings(s=1.2))

    def build(self, dims):
        self.decoder = self.decoder.sized(dims, latent=self.latent, conditions=0, heads=("rho",))
        self.register_buffer("origin", torch.zeros(self.latent))

    def model(self, cells):
        with cells.plate():
            z = pyro.sample("z", dist.Normal(self.origin, 1.0).to_event(1))
            eta = self.decoder(z, z.new_zeros(len(cells), 0))["rho"]
            pyro.sample("x", Log1pNormal(eta, torch.full_like(eta, log(self.sigma))), obs=cells.x)

    def by_quadrature(self, cells: Cells) -> Tensor:
        return self._one(cells) if self.latent == 1 else self._two(cells)

    def _one(self, cells: Cells, points: int = 121) -> Tensor:
        """A grid over W [3]."""
        s, y = self.decoder.loadings.s, cells.x.log1p()
        axis = torch.linspace(-5 * s, 5 * s, points, dtype=torch.float64)
        w = torch.cartesian_prod(*[axis] * self.genes)
        log_prior = dist.Normal(0.0, s).log_prob(w).sum(-1)
        return (log_prior + _log_normal_of(y, w.unsqueeze(-1), self.sigma)).logsumexp(0) + self.genes * _log_step(axis)

    def _two(self, cells: Cells, points: int = 81) -> Tensor:
        """A grid over L, of W W' = s^2 L L' of two genes and two factors [Bartlett, 1933]."""
        s, y = self.decoder.loadings.s, cells.x.log1p()
        first = torch.linspace(1e-6, 5.5, points, dtype=torch.float64)
        both = torch.linspace(-5.5, 5.5, 2 * points, dtype=torch.float64)
        grid = torch.cartesian_prod(first, both, both)
        l11, l21, l22 = grid.unbind(-1)
        log_prior = l11.log() - l11**2 / 2 + dist.Normal(0.0, 1.0).log_prob(grid[:, 1:]).sum(-1)
        L = torch.stack([l11, torch.zeros_like(l11), l21, l22], -1).unflatten(-1, (2, 2))
        steps = _log_step(first) + 2 * _log_step(both)
        return (log_prior + _log_normal_of(y, s * L, self.sigma)).logsumexp(0) + steps


def _log_normal_of(y: Tensor, W: Tensor, sigma: float) -> Tensor:
    """Sum over n of log Normal(y_n; 0, W W' + sigma^2 I), for every W [m, g, k]."""
    pieces = []
    for piece in W.split(200_000):
        covariance = piece @ piece.mT + sigma**2 * torch.eye(y.shape[1]).to(y)
        S = y.T @ y
        constant = len(y) * (y.shape[1] * log(2 * torch.pi) + torch.logdet(covariance))
        pieces.append(-0.5 * (constant + (torch.linalg.inv(covariance) * S).sum((-1, -2))))
    return torch.cat(pieces)


# Counts


class SharedRate(Model):
    """lam_g ~ Gamma(a, b), x_ng ~ Poisson(lam_g l_n)."""

    a: float = 1.5
    b: float = 0.7
    genes: int = 8

    def build(self, dims):
        self.register_buffer("shape", torch.full((self.genes,), self.a))

    def model(self, cells):
        lam = pyro.sample("lam", dist.Gamma(self.shape, self.b).to_event(1))
        with cells.plate():
            pyro.sample("x", dist.Poisson(lam * cells.size_factor[:, None]).to_event(1), obs=cells.x)

    def by_hand(self, cells: Cells) -> Tensor:
        x, l, a = cells.x, cells.size_factor[:, None], torch.tensor(self.a).double()
        total, b = x.sum(0), torch.tensor(self.b).double()
        plain = (x * l.log() - lgamma(x + 1)).sum(0)
        return (plain + a * b.log() - lgamma(a) + lgamma(a + total) - (a + total) * (b + l.sum()).log()).sum()


class SharedTheta(Model):
    """theta_g ~ a prior, x_ng ~ NB(l_n exp(b_g), theta_g)."""

    genes: int = 8
    dispersion: Dispersion = RandomDispersion()

    def build(self, dims):
        self.dispersion = self.dispersion.sized(dims)
        self.register_buffer("b", torch.linspace(-0.5, 2.0, self.genes))

    def model(self, cells):
        log_theta = self.dispersion(cells)
        with cells.plate():
            likelihood = NB(link=Exponential())
            pyro.sample("x", likelihood(cells.size_factor[:, None], log_theta, rho=self.b), obs=cells.x)

    def by_quadrature(self, cells: Cells) -> Tensor:
        t = torch.linspace(-12, 12, 2401, dtype=torch.float64)
        theta = t.exp()[:, None, None]
        log_mu = cells.size_factor[:, None].log() + self.b.double()
        log_p = torch.cat([log_nb(cells.x, log_mu.expand(len(p), -1, -1), p).sum(1) for p in theta.split(100)])
        return ((log_p + self.log_prior(t)[:, None]).logsumexp(0) + _log_step(t)).sum()

    def log_prior(self, t: Tensor) -> Tensor:
        """Log density of log theta under its prior."""
        prior = self.dispersion
        if isinstance(prior, RandomDispersion):
            return dist.Normal(prior.m, prior.s).log_prob(t)
        return dist.Gamma(torch.tensor(prior.a).double(), prior.b).log_prob(t.exp()) + t


class ThetaAndCells(Model):
    """theta ~ LogNormal(0.5, 0.8), z_n ~ Normal(m[k], s[k]), x_ng ~ NB(exp(b_g + v_g z_n), theta)."""

    genes: int = 6
    components: int = 1

    def build(self, dims):
        self.register_buffer("b", torch.linspace(0.0, 1.5, self.genes))
        self.register_buffer("v", torch.linspace(-1.0, 1.0, self.genes))
        self.register_buffer("w", torch.tensor([0.6, 0.4])[: self.components].log().log_softmax(0))
        self.register_buffer("m", torch.tensor([[-1.2], [1.5]])[: self.components] * (self.components > 1))
        self.register_buffer("s", torch.tensor([[0.5], [0.7]])[: self.components] ** (self.components > 1))
        self.register_buffer("loc", torch.full((1,), 0.5))

    def model(self, cells):
        theta = pyro.sample("theta", dist.LogNormal(self.loc, 0.8).to_event(1))
        with cells.plate():
            if self.components == 1:
                z = pyro.sample("z", dist.Normal(self.m[0], self.s[0]).to_event(1))
            else:
                k = pyro.sample("k", dist.Categorical(logits=self.w), infer={"enumerate": "parallel"})
                z = pyro.sample("z", dist.Normal(self.m[k], self.s[k]).to_event(1))
            l = torch.ones(len(cells), 1).to(self.b)
            pyro.sample("x", NB(link=Exponential())(l, theta.log(), rho=self.b + self.v * z), obs=cells.x)

    def by_quadrature(self, cells: Cells) -> Tensor:
        t = torch.linspace(-5.0, 5.0, 161, dtype=torch.float64)
        z = torch.linspace(-8.0, 8.0, 241, dtype=torch.float64)
        log_mu = self.b + self.v * z[:, None, None]
        parts = dist.Normal(self.m[:, 0], self.s[:, 0]).log_prob(z[:, None]) + self.w
        log_prior = parts.logsumexp(-1)[:, None]
        given = [(log_nb(cells.x, log_mu, each.exp()).sum(-1) + log_prior).logsumexp(0) + _log_step(z) for each in t]
        whole = torch.stack(given).sum(-1) + dist.Normal(0.5, 0.8).log_prob(t)
        return whole.logsumexp(0) + _log_step(t)


def _log_step(axis: Tensor) -> float:
    return log(float(axis[1] - axis[0]))


def generated(model: Model, n: int, seed: int) -> tuple[Any, Cells]:
    """The page, sized, and cells that it has made."""
    torch.manual_seed(seed)
    sizes = torch.exp(0.4 * torch.randn(n)).double()
    blank = Cells(torch.ones(n, model.genes), size_factor=sizes, dtype=torch.float64)
    model = model.sized(blank.dims).double()
    with as_scored():
        x: Any = poutine.trace(poutine.uncondition(model)).get_trace(blank).nodes["x"]["value"]
    return model, Cells(x, size_factor=sizes, dtype=torch.float64)


def read(model: Model, cells: Cells) -> tuple[Model, Any]:
    """The page and a guide that knows nothing of these cells."""
    torch.manual_seed(0)
    guide = MeanField(encoder=ReadCell(widths=16, dropout=0.0)).sized(model, cells)
    return model.eval(), guide.double().eval()


def _problem(model: Model, n: int, seed: int, exact: Callable[[Any, Cells], Tensor]) -> Whole:
    model, cells = generated(model, n, seed)
    return Whole(model, cells, float(exact(model, cells)))


def _by_hand(model: Model, n: int) -> Callable[[int], Whole]:
    return lambda seed: _problem(model, n, seed, lambda page, cells: page.by_hand(cells))


def _by_quadrature(model: Model, n: int) -> Callable[[int], Whole]:
    return lambda seed: _problem(model, n, seed, lambda page, cells: page.by_quadrature(cells))


SHARED: dict[str, Callable[[int], Whole]] = {
    "shared-mean": _by_hand(SharedMean(), 30),
    "factors": _by_hand(SharedMean(latent=2), 12),
    "gamma-poisson": _by_hand(SharedRate(), 30),
    "nb": _by_quadrature(SharedTheta(), 40),
    "nb-gamma": _by_quadrature(SharedTheta(dispersion=GammaDispersion()), 40),
    "nb-cells": _by_quadrature(ThetaAndCells(), 12),
    "nb-mixture": _by_quadrature(ThetaAndCells(components=2), 12),
    "loadings": _by_quadrature(Loading(), 12),
    "turned-loadings": _by_quadrature(Loading(genes=2, latent=2), 12),
}
