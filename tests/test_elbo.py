"""The bound of a minibatch, and the divergences in it."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from fits import moved, pyros, quick
from torch.utils._python_dispatch import TorchDispatchMode

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.guides import FullCovariance, LowRank, MeanField
from pyroscvi.handlers import Tempered, temper
from pyroscvi.inference.divergence import divergence
from pyroscvi.inference.elbo import bound, joint, negative_elbo
from pyroscvi.inference.seeds import seeded
from pyroscvi.models import GMVAE, LDVAE, PPCA, SCVI, Annotated
from pyroscvi.parts import NB, Laplace, Mixture, RandomDispersion, VampPrior

PAGES = [
    SCVI(latent=3),
    SCVI(latent=3, prior=Laplace()),
    SCVI(latent=3, prior=Mixture(components=4)),
    SCVI(latent=3, prior=VampPrior(components=4)),
    GMVAE(latent=3),
    Annotated(latent=3),
    LDVAE(latent=3),
    LDVAE(latent=3, likelihood=NB(dispersion=RandomDispersion())),
    PPCA(latent=3),
]
GUIDES = [MeanField(), FullCovariance(), LowRank()]


# The bound


@pytest.mark.parametrize("guide", GUIDES, ids=repr)
@pytest.mark.parametrize("model", PAGES, ids=repr)
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_bound_is_pyros_on_the_same_draw(model, guide, beta, cells):
    m, g = moved(model, guide, cells.to(dtype=torch.float64))
    minibatch = cells.to(dtype=torch.float64).take(torch.arange(7))
    with temper(beta):
        with seeded(3):
            theirs = pyros().differentiable_loss(m, g, minibatch)
        with seeded(3):
            ours = negative_elbo(m, g, minibatch, analytic=False)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    parameters = [p for p in [*m.parameters(), *g.parameters()] if p.requires_grad]
    for a, b in zip(
        *(torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (ours, theirs)), strict=True
    ):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("model", [SCVI(latent=3), GMVAE(latent=3), LDVAE(latent=3)], ids=repr)
def test_analytic_bound_is_the_average_of_drawn_ones(model, cells):
    cells = cells.to(dtype=torch.float64).subset(torch.arange(10))
    m, g = moved(model, FullCovariance(), cells)
    with torch.no_grad():
        drawn, exact = (
            torch.tensor([negative_elbo(m, g, cells, analytic=analytic) for _ in range(144)])
            for analytic in (False, True)
        )
    error = math.hypot(drawn.std() / 12, exact.std() / 12)
    assert abs(drawn.mean() - exact.mean()) < 4 * error
    assert error < 0.1 * abs(drawn.mean())


def test_a_closed_form_takes_noise_away(cells):
    m, g = moved(PPCA(latent=3), FullCovariance(), cells.to(dtype=torch.float64))
    cells = cells.to(dtype=torch.float64)
    with torch.no_grad():
        p, q = joint(m, g, cells)
        kl = divergence(q["z"]["fn"], p["z"]["fn"])
        assert kl.shape == (len(cells),)
        assert (kl > 0).all()
        spread = [
            torch.stack([bound(m, g, cells, analytic=a).cells.sum() for _ in range(60)]).std() for a in (False, True)
        ]
    assert spread[1] < spread[0]


def test_terms_of_cells_are_scaled_and_terms_of_shared_latents_are_not(cells):
    """Minibatches of a data set of ten times the cells: cells count ten times as much, shared latents once."""
    m, g = moved(
        LDVAE(latent=3, likelihood=NB(dispersion=RandomDispersion())), MeanField(), cells.to(dtype=torch.float64)
    )
    cells = cells.to(dtype=torch.float64)
    few = cells.subset(torch.arange(6))
    with torch.no_grad(), seeded(1):
        alone = bound(m, g, few)
    with torch.no_grad(), seeded(1):
        among_many = bound(m, g, cells.take(torch.arange(6)))
    assert torch.allclose(among_many.cells, 10 * alone.cells)
    assert torch.allclose(among_many.shared, alone.shared)
    assert alone.shared < 0


class NoNumberLeaves(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func), "a tensor was turned into a number"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("guide", GUIDES, ids=repr)
@pytest.mark.parametrize("model", [SCVI(latent=3), GMVAE(latent=3), LDVAE(latent=3)], ids=repr)
def test_no_number_leaves_the_device(model, guide, cells):
    minibatch = Cells(cells.x[:10])  # without conditions: torch's one-hot looks at its numbers
    m, g = moved(model, guide, minibatch, torch.float32)
    with pytest.raises(AssertionError, match="turned into a number"), NoNumberLeaves():
        torch.ones(()).item()
    with NoNumberLeaves():
        assert negative_elbo(m, g, minibatch).requires_grad


def test_the_model_runs_once(cells):
    class Counting(SCVI):
        runs = 0

        def model(self, cells):
            type(self).runs += 1
            super().model(cells)

    m, g = moved(Counting(latent=3), MeanField(), cells, torch.float32)
    Counting.runs = 0
    negative_elbo(m, g, cells)
    assert Counting.runs == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
def test_an_accelerator_that_is_not_there_is_named(cells):
    with pytest.raises(ValueError, match=r"no 'cuda': it has cpu"):
        ps.fit(SCVI(), MeanField(), cells, device="cuda", epochs=1, progress=False)


@pytest.mark.parametrize("was", [True, False])
def test_validation_is_left_as_it_was(was, cells):
    m, g = moved(SCVI(latent=3), MeanField(), cells, torch.float32)
    with pyro.validation_enabled(was):
        negative_elbo(m, g, cells)
        quick(SCVI(latent=3), MeanField(), cells, epochs=1)
        assert pyro.infer.is_validation_enabled() is was
        assert dist.is_validation_enabled() is was


def test_a_guide_that_cannot_be_reparameterised_is_refused(cells):
    def model(cells):
        with cells.plate():
            pyro.sample("k", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="'k' of the guide cannot be reparameterised"):
        negative_elbo(model, model, cells)


def test_a_batch_outside_the_plate_is_refused(cells):
    def model(cells):
        pyro.sample("theta", dist.Normal(torch.zeros(3), 1.0))

    with pytest.raises(ValueError, match="'theta' has batch shape"):
        negative_elbo(model, model, cells, analytic=False)


# Divergences


def gaussians(d=3, n=2):
    mean, L = torch.randn(n, d).double(), torch.randn(n, d, d).double().tril(-1) + torch.eye(d).double() * 0.7
    return {
        "mean field": dist.Normal(mean, 0.3 + torch.rand(n, d).double()).to_event(1),
        "full": dist.MultivariateNormal(mean, scale_tril=L),
        "low rank": dist.LowRankMultivariateNormal(
            mean, torch.randn(n, d, 1).double(), 0.2 + torch.rand(n, d).double()
        ),
    }


@pytest.mark.parametrize("q", ["mean field", "full", "low rank"])
@pytest.mark.parametrize("p", ["normal", "laplace", "lognormal", "full"])
def test_divergence_against_draws(q, p):
    q = gaussians()[q]
    zero = torch.zeros(3).double()
    prior = {
        "normal": dist.Normal(zero + 0.3, 1.5).to_event(1),
        "laplace": dist.Laplace(zero - 0.2, 0.8).to_event(1),
        "lognormal": dist.LogNormal(zero + 0.3, 1.5).to_event(1),
        "full": dist.MultivariateNormal(zero, scale_tril=torch.eye(3).double() + 0.5 * torch.ones(3, 3).tril(-1)),
    }[p]
    if p == "lognormal":
        from pyroscvi.program import onto

        q = onto(prior.support, q)
    exact = divergence(q, prior)
    if exact is None:
        pytest.skip("torch knows none either")
    z = q.sample((40_000,))
    drawn = q.log_prob(z) - prior.log_prob(z)
    assert ((drawn.mean(0) - exact).abs() < 4.5 * drawn.std(0) / 200).all()


@pytest.mark.parametrize("q", ["mean field", "full", "low rank"])
@pytest.mark.parametrize("p", ["normal", "laplace", "lognormal"])
def test_divergences_of_the_zoo_have_closed_forms(q, p):
    q = gaussians()[q]
    prior = {"normal": dist.Normal, "laplace": dist.Laplace, "lognormal": dist.LogNormal}[p](
        torch.zeros(3), 1.0
    ).to_event(1)
    if p == "lognormal":
        from pyroscvi.program import onto

        q = onto(prior.support, q)
    assert divergence(q, prior) is not None


def test_divergence_of_a_tempered_pair_is_tempered():
    q, p = gaussians()["full"], dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)
    assert torch.equal(divergence(Tempered(q, 0.3), Tempered(p, 0.3)), 0.3 * divergence(q, p))
    assert divergence(Tempered(q, 0.3), Tempered(p, 0.4)) is None
    assert divergence(q, Tempered(p, 0.3)) is None


def test_a_divergence_without_a_closed_form_is_none():
    q = dist.TransformedDistribution(gaussians()["full"], [dist.transforms.SigmoidTransform()])
    assert divergence(q, dist.Beta(torch.ones(3), 1.0).to_event(1)) is None
