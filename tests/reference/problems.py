"""Problems whose evidence is known: to quadrature's precision, in any number of dimensions, for any likelihood.

The trick is a rotation. Every gene depends on one coordinate of a state u, so the evidence of a cell is a product of
one-dimensional integrals. The model has the latent z = Q u, with Q orthogonal. A standard normal prior is unchanged, a
mixture of axis-parallel Gaussians becomes one of rotated Gaussians, the decoder becomes dense, and the posterior of z
is correlated in all directions. An estimator sees only z, so the problem is as hard for it as any other.

    k ~ Categorical(w),   u ~ Normal(m[k], s[k]),   x_g ~ p(x_g | log l + b_g + v_g f(u_j(g)))

    log p(x) = log sum_k w_k  prod_j  int Normal(u_j; m_kj, s_kj)  prod_{g: j(g) = j} p(x_g | l, u_j)  du_j

A size that is a latent is integrated around all of it. Likelihoods are written out here once more, from textbooks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log, pi
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, lgamma
from torch.nn.functional import logsigmoid

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.reader import copied
from pyroscvi.guides import FullCovariance
from pyroscvi.models import PPCA, SCVI
from pyroscvi.parts import (
    NB,
    ZINB,
    ZIP,
    Exponential,
    LatentSize,
    Likelihood,
    Linear,
    Log1pNormal,
    Mixture,
    Poisson,
    ReadCell,
    Size,
    SizeFactor,
)
from pyroscvi.program import Model, free_sites

__all__ = ["PROBLEMS", "Problem", "amortised", "problems"]


@dataclass
class Problem:
    """A page with its parameters, cells [n] that it has generated, and log p(x_n) of each."""

    name: str
    model: Model
    cells: Cells
    exact: Tensor


class Rotated(Model):
    """Genes of which each looks at one coordinate of u = Q' z."""

    genes: int = 60
    latent: int = 10
    components: int = 1
    bent: bool = False
    likelihood: Likelihood = NB(link=Exponential())
    size: Size = SizeFactor()

    def build(self, dims):
        g, d, K = self.genes, self.latent, self.components
        self.register_buffer("Q", torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0])
        self.register_buffer("j", torch.arange(g) % d)
        signs = torch.randint(0, 2, (g,)) * 2 - 1
        # Some coordinates are known well from the counts and some hardly at all.
        known = torch.logspace(-0.7, 0.2 if K == 1 else 0.0, d)[self.j]
        self.register_buffer("v", (0.5 + torch.rand(g)) * signs * known)
        self.register_buffer("b", 0.3 + 0.7 * torch.randn(g))
        self.register_buffer("log_theta", (2 * (0.3 + torch.rand(g))).log())
        self.register_buffer("gate", torch.randn(g) - 1)
        self.register_buffer("w", (0.5 * torch.randn(K)).log_softmax(0))
        self.register_buffer("m", 1.5 * torch.randn(K, d) if K > 1 else torch.zeros(1, d))
        self.register_buffer("s", 0.3 + 0.7 * torch.rand(K, d) if K > 1 else torch.ones(1, d))
        self.size = self.size.sized(dims)

    def model(self, cells):
        with cells.plate():
            l = self.size(cells)
            if self.components == 1:
                z = pyro.sample("z", dist.Normal(torch.zeros(self.latent).to(self.Q), 1.0).to_event(1))
            else:
                k = pyro.sample("k", dist.Categorical(logits=self.w), infer={"enumerate": "parallel"})
                tilted = torch.linalg.cholesky(self.Q @ (self.s**2).diag_embed() @ self.Q.T)
                z = pyro.sample("z", dist.MultivariateNormal((self.m @ self.Q.T)[k], scale_tril=tilted[k]))
            eta = {"rho": self.rho((z @ self.Q).index_select(-1, self.j)), "gate": self.gate}
            heads = {head: eta[head] for head in self.likelihood.heads}
            log_theta = self.log_theta if hasattr(self.likelihood.dispersion, "start") else None
            pyro.sample("x", self.likelihood(l, log_theta, **heads), obs=cells.x)

    def rho(self, u: Tensor) -> Tensor:
        """Predictor of every gene, from its own coordinate u [..., g]."""
        return self.b + self.v * (1.5 * u.tanh() + 0.3 * u if self.bent else u)

    def log_evidence_by_quadrature(self, cells: Cells, points: int = 1201, reach: float = 12.0) -> Tensor:
        """log p(x_n) [n], by the trapezium rule, which is exact to many digits for what vanishes at both ends."""
        if isinstance(self.size, SizeFactor):
            return self._log_p_given(cells.x, cells.size_factor[:, None].log(), points, reach)
        m, s = self.size.m[0], self.size.s[0]
        log_l = torch.linspace(-6, 6, 121, dtype=torch.float64) * s + m
        log_p = [self._log_p_given(cells.x, at.expand(len(cells), 1), 401, reach) for at in log_l]
        return _log_trapezium(torch.stack(log_p) + _log_normal(log_l[:, None], m, s), float(log_l[1] - log_l[0]))

    def _log_p_given(self, x: Tensor, log_l: Tensor, points: int, reach: float) -> Tensor:
        u = torch.linspace(-reach, reach, points, dtype=torch.float64)
        coordinates = torch.zeros(points, len(x), self.latent, dtype=torch.float64)
        for piece in torch.arange(points).split(200):
            log_mu = log_l + self.rho(u[piece, None, None].expand(-1, len(x), self.genes))
            coordinates[piece] = coordinates[piece].index_add(2, self.j, self._log_p(x, log_mu))
        step = float(u[1] - u[0])
        return torch.stack(
            [
                w + _log_trapezium(coordinates + _log_normal(u[:, None, None], m, s), step).sum(-1)
                for w, m, s in zip(self.w, self.m, self.s, strict=True)
            ]
        ).logsumexp(0)

    def _log_p(self, x: Tensor, log_mu: Tensor) -> Tensor:
        """Every gene's own log-probability [..., n, g]."""
        theta = self.log_theta.exp()
        plain: dict[type, Callable[[], Tensor]] = {
            Poisson: lambda: log_poisson(x, log_mu),
            ZIP: lambda: inflated(x, log_poisson(x, log_mu), self.gate),
            NB: lambda: log_nb(x, log_mu, theta),
            ZINB: lambda: inflated(x, log_nb(x, log_mu, theta), self.gate),
            Log1pNormal: lambda: _log_normal(x.log1p(), log_mu.exp().log1p(), theta),
        }
        return plain[type(self.likelihood)]()


class GammaPoisson(Model):
    """lam ~ Gamma(a, b), x_g ~ Poisson(lam s_g): a latent on the half-line, and an evidence in closed form."""

    a: float = 1.5
    b: float = 0.7
    genes: int = 20

    def build(self, dims):
        self.register_buffer("s", torch.linspace(0.1, 1.1, self.genes))

    def model(self, cells):
        shape = torch.full((1,), self.a, dtype=cells.dtype)
        with cells.plate():
            lam = pyro.sample("lam", dist.Gamma(shape, self.b).to_event(1))
            pyro.sample("x", dist.Poisson(lam * self.s).to_event(1), obs=cells.x)

    def log_evidence_by_hand(self, x: Tensor) -> Tensor:
        s, a, b, x, total = self.s.double(), torch.tensor(self.a).double(), self.b, x.double(), x.double().sum(-1)
        log_p = (x * s.log() - lgamma(x + 1)).sum(-1) + a * log(b) - lgamma(a)
        return (log_p + lgamma(a + total) - (a + total) * (b + s.sum()).log()).detach()


def log_poisson(x: Tensor, log_mu: Tensor) -> Tensor:
    return x * log_mu - log_mu.exp() - lgamma(x + 1)


def log_nb(x: Tensor, log_mu: Tensor, theta: Tensor) -> Tensor:
    both = torch.logaddexp(log_mu, theta.log().expand_as(log_mu))
    choose = lgamma(x + theta) - lgamma(theta) - lgamma(x + 1)
    return choose + theta * (theta.log() - both) + x * (log_mu - both)


def inflated(x: Tensor, log_p: Tensor, gate: Tensor) -> Tensor:
    counted = logsigmoid(-gate) + log_p
    return torch.where(x == 0, torch.logaddexp(logsigmoid(gate).expand_as(counted), counted), counted)


def _log_normal(value: Tensor, m: Tensor, s: Tensor) -> Tensor:
    return -0.5 * ((value - m) / s) ** 2 - s.log() - 0.5 * log(2 * pi)


def _log_trapezium(log_f: Tensor, step: float) -> Tensor:
    """log of the integral along the first axis; what is left at its ends counts for nothing."""
    return log_f.logsumexp(0) + log(step)


def generated(model: Model, cells: Cells) -> Cells:
    """The cells with the counts that the model draws for them."""
    x: Any = poutine.trace(poutine.uncondition(model)).get_trace(cells).nodes["x"]["value"]
    return Cells(x, size_factor=cells.size_factor, dtype=torch.float64)


def rotated(seed: int, n: int, **fields: Any) -> tuple[Model, Cells]:
    torch.manual_seed(seed)
    sizes = torch.exp(0.4 * torch.randn(n)).double()
    genes = fields.get("genes", 60)
    blank = Cells(torch.ones(n, genes), size_factor=sizes, dtype=torch.float64)
    model = Rotated(**fields).sized(blank.dims).double()
    if isinstance(model.size, LatentSize):
        model.size.m.fill_(0.2)
        model.size.s.fill_(0.5)
    return model, generated(model, blank)


def on_a_grid(model: Model, cells: Cells, reach: float = 9.0, points: int = 161) -> Tensor:
    """log p(x_n) of a model of two real latents, on a grid."""
    t = torch.linspace(-reach, reach, points, dtype=torch.float64)
    model, _, cells = copied(model, None, cells)
    joint = Joint(model, free_sites(model, cells), cells)
    with torch.no_grad():
        pieces = [joint(u[:, None].expand(-1, len(cells), -1)) for u in torch.cartesian_prod(t, t).split(2000)]
    return torch.cat(pieces).logsumexp(0) + 2 * log(2 * reach / (points - 1))


def softmax(seed: int, n: int, **fields: Any) -> tuple[Model, Cells]:
    """A page of the zoo with two latents, as scVI has them: shares, of a size that was not counted from them."""
    torch.manual_seed(seed)
    sizes = 200 * torch.exp(0.3 * torch.randn(n)).double()
    blank = Cells(torch.ones(n, 40), size_factor=sizes, dtype=torch.float64)
    model = SCVI(latent=2, decoder=Linear(), size=SizeFactor(), **fields).sized(blank.dims).double()
    with torch.no_grad():
        for head in model.decoder.heads.values():
            head.weight.normal_(0, 0.8)
            head.bias.normal_(0, 1)
        model.likelihood.dispersion.log_theta.uniform_(-0.7, 1.3)
    return model, generated(model, blank)


def _rotated(name: str, seed: int, **fields: Any) -> tuple[str, Callable[[int], Problem]]:
    def build(n: int) -> Problem:
        model, cells = rotated(seed, n, **fields)
        few = cells.subset(torch.arange(min(n, 32)))
        return Problem(name, model, cells, model.log_evidence_by_quadrature(few))

    return name, build


def _softmax(name: str, seed: int, **fields: Any) -> tuple[str, Callable[[int], Problem]]:
    def build(n: int) -> Problem:
        model, cells = softmax(seed, n, **fields)
        return Problem(name, model, cells, on_a_grid(model, cells.subset(torch.arange(min(n, 32)))))

    return name, build


def _gamma(n: int) -> Problem:
    torch.manual_seed(1)
    model = GammaPoisson().sized(None).double()
    cells = generated(model, Cells(torch.ones(n, 20), dtype=torch.float64))
    return Problem("gamma-poisson", model, cells, model.log_evidence_by_hand(cells.x[:32]))


def _ppca(n: int) -> Problem:
    """Loadings that share a direction, so that the posterior is correlated; integrated, the closed form held back."""
    torch.manual_seed(2)
    blank = Cells(torch.ones(n, 30), dtype=torch.float64)
    page = PPCA(latent=5).sized(blank.dims).double()
    with torch.no_grad():
        page.W.copy_(0.15 * torch.randn(30, 5) + 0.5 * torch.randn(30, 1))
        page.c.fill_(2.0)
        page.log_sigma.fill_(log(0.5))
    cells = generated(page, blank)
    model = WithoutClosedForm(latent=5).sized(blank.dims).double()
    model.load_state_dict(page.state_dict())
    return Problem("ppca-normal-d5", model, cells, page.log_evidence(cells.x[:32]).detach())


class WithoutClosedForm(PPCA):
    log_evidence = property()  # type: ignore[assignment]  # so that hasattr returns False


LIKELIHOODS = {"poisson": Poisson, "zip": ZIP, "nb": NB, "zinb": ZINB, "log1p": Log1pNormal}
PRIORS = {"normal": 1, "mixture": 4}
PROBLEMS: dict[str, Callable[[int], Problem]] = dict(
    [
        _rotated(
            f"{likelihood}-{prior}-d{d}",
            10 * i + d,
            likelihood=part(link=Exponential()),
            components=components,
            latent=d,
            genes=max(20, 6 * d),
        )
        for i, (likelihood, part) in enumerate(LIKELIHOODS.items())
        for prior, components in PRIORS.items()
        for d in (2, 10)
    ]
    + [
        _rotated("poisson-normal-d1", 3, likelihood=Poisson(link=Exponential()), latent=1, genes=20),
        _rotated("nb-normal-d20", 7, latent=20, genes=200),
        _rotated("zinb-bent-d10", 5, likelihood=ZINB(link=Exponential()), bent=True),
        _rotated("nb-mixture-d5-size", 6, latent=5, genes=30, components=3, size=LatentSize()),
        _rotated(
            "poisson-normal-d3-size", 8, likelihood=Poisson(link=Exponential()), latent=3, genes=30, size=LatentSize()
        ),
        ("gamma-poisson", _gamma),
        ("ppca-normal-d5", _ppca),
        _softmax("nb-softmax-d2", 11, likelihood=NB()),
        _softmax("zinb-softmax-mixture-d2", 12, likelihood=ZINB(), prior=Mixture(components=3)),
    ]
)


def problems(n: int = 432) -> Iterator[Problem]:
    """All of them, with n cells each, of which the first 32 have exact evidences."""
    for build in PROBLEMS.values():
        yield build(n)


def amortised(problem: Problem, guide: Any = None, steps: int = 400) -> tuple[tuple[Model, Any], Cells]:
    """A guide trained on all cells but the first 32, and those: what a user's fit of the true model would be."""
    torch.manual_seed(0)
    first = torch.arange(len(problem.cells)) < 32
    seen = problem.cells.subset(~first).to(dtype=torch.float32)
    model, _, _ = copied(problem.model, None, seen)
    model = model.float()
    guide = (guide or FullCovariance(encoder=ReadCell(widths=64))).sized(model, seen)
    optimiser = torch.optim.Adam(guide.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    loss = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    for step in range(steps):
        minibatch = seen.take(torch.arange(128) + 128 * step % (len(seen) - 127))
        optimiser.zero_grad()
        loss.differentiable_loss(model, guide, minibatch).div(len(seen)).backward()
        optimiser.step()
        schedule.step()
    return (problem.model.eval(), guide.double().eval()), problem.cells.subset(first)
