"""Evidence against known integrals, and what a value must not depend on."""

import copy
import random
from dataclasses import replace
from itertools import product
from math import log

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fits import untrained
from pyro import poutine
from quadrature import quadrature
from torch import nn
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.estimator import Importance
from pyroscvi.evidence.importance import estimate, log_weights
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.proposals import GuideDraws, StudentT
from pyroscvi.evidence.reader import Reader, copied
from pyroscvi.evidence.refined import Refined
from pyroscvi.evidence.table import evidences, log_evidence
from pyroscvi.guides import Flow, FullCovariance, LowRank, MeanField, SpatialGNN
from pyroscvi.models import CVAE, GMVAE, LDVAE, PPCA, SCVI, Annotated, PoissonLognormal
from pyroscvi.parts import (
    MLP,
    NB,
    BatchNorm,
    Laplace,
    LatentSize,
    Linear,
    LogisticNormal,
    Mixture,
    OneHot,
    PerBatch,
    PerGene,
    Poisson,
    RandomDispersion,
    ReadCell,
    SizeFactor,
    StandardNormal,
    VampPrior,
)
from pyroscvi.program import Model, free_sites


def trained(model, guide, cells, steps=400, lr=2e-2):
    """A pair after a short training in plain Pyro."""
    model = model.sized(cells.dims)
    guide = guide.sized(model, cells)
    loss = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    optimiser = torch.optim.Adam({*model.parameters(), *guide.parameters()}, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss.differentiable_loss(model, guide, cells).div(len(cells)).backward()
        optimiser.step()
        schedule.step()
    return model.eval(), guide.eval()


class Posterior(nn.Module):
    """The guide with the exact posterior of PPCA."""

    def __init__(self, model, cells):
        super().__init__()
        self.model, self.sites = model, free_sites(model, cells)

    def posteriors(self, cells):
        return {"z": self.model.posterior(cells.x)}


# Exact answers


def test_ppca_is_exact_where_the_guide_is_the_posterior(cells):
    model = PPCA(latent=3).sized(cells.dims)
    guide = Posterior(model, cells)
    table = evidences(Reader((model, guide), cells), particles=100, estimator=Importance(GuideDraws())).table
    wide, _, x = copied(model, guide, cells)
    exact = wide.log_evidence(x.x).detach().numpy()
    np.testing.assert_allclose(table["log_evidence"], exact, atol=1e-6)
    assert (table["monte_carlo_se"] < 1e-6).all()
    assert (table["effective_sample_size"] > 99.99).all()
    assert set(table["method"]) == {"importance"}
    assert set(table["certificate"]) == {"uncertified"}


def test_a_closed_form_is_used_where_it_holds(cells):
    pair = untrained(PPCA(latent=3), MeanField(), cells)
    table = evidences(Reader(pair, cells)).table
    assert set(table["method"]) == set(table["certificate"]) == {"exact"}
    assert (table["monte_carlo_se"] == 0).all()
    np.testing.assert_allclose(table["log_evidence"], pair[0].log_evidence(cells.x).detach(), rtol=1e-5)
    few = cells.subset(torch.arange(5))
    assert "exact" not in set(
        evidences(Reader(untrained(PPCA(prior=Laplace()), MeanField(), cells), few)).table["method"]
    )
    with poutine.mask(mask=torch.tensor(True)):  # a handler changes the model, so that its closed form no longer holds
        assert "exact" not in set(evidences(Reader(pair, few), 10).table["method"])


def test_ppca_with_a_trained_guide_is_near_the_exact_evidence(cells):
    pair = trained(PPCA(latent=2), FullCovariance(), cells)
    result = log_evidence(pair, cells, estimator=Importance(StudentT()))
    exact = log_evidence(pair, cells)
    assert abs(np.mean(result - exact)) < 0.005
    assert np.abs(result - exact).max() < 0.05


@pytest.mark.parametrize("prior", [StandardNormal(), Laplace(), LogisticNormal(), Mixture(components=3)], ids=repr)
def test_two_latents_agree_with_quadrature(small, prior):
    model = SCVI(latent=2, prior=prior, decoder=Linear(), likelihood=NB(), size=SizeFactor(), condition=OneHot("drug"))
    pair = trained(model, FullCovariance(), small, steps=250)
    exact = quadrature(pair, small)
    for proposal in (GuideDraws(), StudentT()):
        error = log_evidence(pair, small, particles=2000, estimator=Importance(proposal)) - exact
        assert abs(error.mean()) < 0.02
        assert np.abs(error).mean() < 0.05


def test_the_state_of_a_logistic_normal_is_scored_where_it_was_sampled(small):
    """By the density of the Gaussian, not by that of its softmax."""
    model, guide, cells = copied(
        *untrained(SCVI(latent=2, prior=LogisticNormal(), likelihood=Poisson()), MeanField(), small), small
    )
    joint, u = Joint(model, guide.sites, cells), torch.randn(5, 20, 2, dtype=torch.float64)
    with torch.no_grad():
        assert_close(joint(u) - joint.log_likelihood(u), dist.Normal(0.0, 1.0).log_prob(u).sum(-1))


class GammaPoisson(Model):
    """lam ~ Gamma(a, b), x_g ~ Poisson(lam s_g): a latent on the half-line, and an evidence in closed form."""

    a: float = 1.5
    b: float = 0.7

    def build(self, dims):
        self.s = nn.Parameter(torch.linspace(0.1, 1.1, dims.genes))

    def model(self, cells):
        shape = torch.full((1,), self.a, dtype=cells.dtype)
        with cells.plate():
            lam = pyro.sample("lam", dist.Gamma(shape, self.b).to_event(1))
            pyro.sample("x", dist.Poisson(lam * self.s).to_event(1), obs=cells.x)

    def log_evidence_by_hand(self, x):
        s, a, b, total = self.s.double(), torch.tensor(self.a).double(), self.b, x.double().sum(-1)
        log_p = (x * s.log() - torch.lgamma(x.double() + 1)).sum(-1) + a * log(b) - torch.lgamma(a)
        return (log_p + torch.lgamma(a + total) - (a + total) * (b + s.sum()).log()).detach()


def test_gamma_poisson_agrees_with_its_closed_form():
    lam = dist.Gamma(1.5, 0.7).sample((32, 1))
    cells = Cells(torch.poisson(lam * torch.linspace(0.1, 1.1, 20)))
    pair = trained(GammaPoisson(), FullCovariance(), cells)
    error = log_evidence(pair, cells, estimator=Importance(StudentT())) - pair[0].log_evidence_by_hand(cells.x).numpy()
    assert abs(error.mean()) < 0.005
    assert np.abs(error).max() < 0.05


def test_poisson_lognormal_agrees_with_quadrature():
    """A Poisson with log link and wide loadings, by quadrature."""
    w = (0.5 + torch.rand(20)) * (torch.randint(0, 2, (20,)) * 2 - 1)
    sizes = torch.exp(0.4 * torch.randn(32))
    cells = Cells(torch.poisson(sizes[:, None] * torch.exp(0.3 + torch.randn(32, 1) * w)), size_factor=sizes)
    model = PoissonLognormal(latent=1, size=SizeFactor()).sized(cells.dims)
    with torch.no_grad():
        model.decoder.heads["rho"].weight.copy_(w[:, None])
        model.decoder.heads["rho"].bias.fill_(0.3)
    guide = FullCovariance().sized(model, cells)
    frozen = [p.requires_grad_(False) for p in model.parameters()]
    optimiser = torch.optim.Adam(guide.parameters(), 2e-2)
    loss = pyro.infer.Trace_ELBO()
    for _ in range(300):
        optimiser.zero_grad()
        loss.differentiable_loss(model, guide, cells).div(32).backward()
        optimiser.step()
    error = log_evidence((model, guide.eval()), cells, estimator=Importance(StudentT())) - quadrature(
        (model, guide), cells, d=1, points=1001
    )
    assert len(frozen) == 2
    assert abs(error.mean()) < 0.005
    assert np.abs(error).max() < 0.05


def test_the_estimate_is_the_arithmetic_mean_of_weights():
    result = estimate(torch.tensor([[0.0], [log(3.0)]]))
    assert result.log_evidence.item() == pytest.approx(log(2.0))  # the harmonic mean is log 1.5
    assert result.monte_carlo_se.item() == pytest.approx(np.std([0.5, 1.5], ddof=1) / 2**0.5)
    assert result.effective_sample_size.item() == pytest.approx(16 / 10)


def test_a_model_of_discrete_latents_alone_is_exact(cells):
    class TwoKinds(Model):
        def build(self, dims):
            self.rates = nn.Parameter(torch.rand(2, dims.genes) + 0.5)

        def model(self, cells):
            with cells.plate():
                k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"}).long()
                pyro.sample("x", dist.Poisson(self.rates[k]).to_event(1), obs=cells.x)

    pair = untrained(TwoKinds(), MeanField(), cells)
    by_kind = dist.Poisson(pair[0].rates[:, None]).log_prob(cells.x).sum(-1)
    exact = (by_kind + torch.tensor([0.7, 0.3]).log()[:, None]).logsumexp(0)
    for proposal in (StudentT(), Refined()):
        table = evidences(Reader(pair, cells), estimator=Importance(proposal)).table
        np.testing.assert_allclose(table["log_evidence"], exact.detach(), rtol=1e-5)
        assert set(table["method"]) == {"exact"}


# What a value must not depend on

PAGES = [
    SCVI(likelihood=NB()),
    SCVI(prior=VampPrior(4), size=LatentSize()),
    SCVI(decoder=MLP(norm=BatchNorm()), likelihood=NB()),
    LDVAE(),
    GMVAE(latent=3, kinds=3),
    Annotated(latent=3),
    CVAE(condition=OneHot("label") + OneHot("drug")),
]


PAIRS = [*product(PAGES, [MeanField(), LowRank(), SpatialGNN()]), *((page, Flow()) for page in (PAGES[0], GMVAE()))]


@pytest.mark.parametrize(("model", "guide"), PAIRS, ids=repr)
def test_neither_minibatch_nor_chunk_changes_the_evidence(cells, model, guide):
    pair = untrained(model, guide, cells)
    pair[0].train()  # a user may have left it in training mode
    pair[1].train()
    double = {"estimator": Importance(StudentT()), "dtype": torch.float64}
    whole = log_evidence(pair, cells, 25, batch_size=60, chunk=25, **double)
    np.testing.assert_allclose(log_evidence(pair, cells, 25, batch_size=7, chunk=4, **double), whole, atol=1e-9)
    some = torch.tensor([40, 3, 17])
    np.testing.assert_allclose(log_evidence(pair, cells.take(some), 25, **double), whole[some], atol=1e-9)
    assert pair[0].training
    assert next(pair[0].parameters()).dtype is torch.float32


def test_a_last_partial_chunk_is_weighted_by_its_size(cells):
    """An average of averages would give its draws, or the cells of a last partial minibatch, too much weight."""
    pair = untrained(SCVI(latent=2, likelihood=NB()), MeanField(), cells)
    (target,) = Reader(pair, cells, batch_size=60).targets()
    log_w = log_weights(target.joint, StudentT()(target.q, target.joint), target.streams, 10, chunk=10)
    assert log_w.shape == (10, 60)
    np.testing.assert_allclose(
        log_evidence(pair, cells, 10, chunk=4, batch_size=59, dtype=torch.float64),
        log_w.exp().mean(0).log().numpy(),
        atol=1e-9,
    )


def test_global_random_generators_stay_untouched(cells):
    pair = untrained(SCVI(latent=2, likelihood=NB()), MeanField(), cells)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    first = log_evidence(pair, cells, 10)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]  # noqa: NPY002
    assert random.getstate() == state[2]
    torch.manual_seed(12345)
    assert (log_evidence(pair, cells, 10) == first).all()
    assert (log_evidence(pair, cells, 10, seed=1) != first).all()


def test_a_prior_made_of_posteriors_is_copied_with_its_guide(cells):
    pair = untrained(SCVI(prior=VampPrior(3)), MeanField(), cells)
    model, guide, _ = copied(*pair, cells)
    assert model.prior.guide is guide
    assert pair[0].prior.guide is pair[1]


def test_poisson_is_a_negative_binomial_without_dispersion(cells):
    model, guide = untrained(SCVI(latent=2, likelihood=NB(dispersion=PerGene(start=log(1e6)))), MeanField(), cells)
    poisson = SCVI(latent=2, likelihood=Poisson()).sized(cells.dims)
    poisson.decoder = copy.deepcopy(model.decoder)
    with_theta, without = (log_evidence((page, guide), cells, 100, estimator=Importance()) for page in (model, poisson))
    difference = with_theta - without
    assert np.abs(difference).max() < 0.01


# Bad input


def test_a_latent_that_cells_share_is_held_at_the_centre_of_its_posterior(cells):
    """The evidence is that of the page with a parameter of this value."""
    model, guide = untrained(SCVI(latent=2, likelihood=NB(dispersion=RandomDispersion())), MeanField(), cells)
    plain, own = untrained(SCVI(latent=2, likelihood=NB()), MeanField(), cells)
    own.encoder, own.heads["z"], plain.decoder = guide.encoder, guide.heads["z"], model.decoder
    with torch.no_grad():
        guide.heads["theta"].bias[:12].normal_()
        centre = guide.heads["theta"](torch.ones(1))[:12]  # of log theta
        plain.likelihood.dispersion.log_theta.copy_(centre)
    options = {"estimator": Importance(), "dtype": torch.float64}
    one, two = log_evidence((model, guide), cells, 20, **options), log_evidence((plain, own), cells, 20, **options)
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_a_guide_of_another_model_is_refused(cells):
    small = SCVI(latent=2).sized(cells.dims)
    guide = MeanField().sized(small, cells)
    with pytest.raises(ValueError, match="site 'l' is covered by no site of the guide"):
        log_evidence((SCVI(latent=2, size=LatentSize()).sized(cells.dims), guide), cells)
    other = MeanField().sized(SCVI(latent=2, size=LatentSize()).sized(cells.dims), cells)
    with pytest.raises(ValueError, match=r"the guide covers \['l'\]"):
        log_evidence((small, other), cells)
    with pytest.raises(ValueError, match="size it on its model"):
        log_evidence((small, MeanField()), cells)


def test_parameters_that_are_not_finite_are_refused(cells):
    model, guide = untrained(SCVI(latent=2, likelihood=NB(dispersion=PerBatch())), MeanField(), cells)
    with torch.no_grad():
        model.likelihood.dispersion.log_theta[1] = torch.nan  # of the second batch, to which cell 1 belongs
    with pytest.raises(ValueError, match="not a number for cell 1"):
        log_evidence((model, guide), cells, 5)
    with pytest.raises(ValueError, match="not finite at the guide's mean"):
        log_evidence((model, guide), cells, 5, estimator=Importance(Refined()))


def test_cells_with_other_genes_or_levels_are_refused(cells):
    fit = ps.fit(SCVI(latent=2), MeanField(), cells, epochs=1, progress=False)
    reversed_genes = replace(cells, genes=cells.genes[::-1])
    other_levels = replace(cells, levels={**cells.levels, "batch": ("b", "a")})
    for wrong in (reversed_genes, other_levels):
        for function in (ps.log_evidence, ps.certify, ps.calibrate, ps.data_evidence):
            with pytest.raises(ValueError, match=r"read them with fit.read\(adata\)"):
                function(fit, wrong)


def test_data_that_are_not_cells_are_refused(cells):
    pair = untrained(SCVI(latent=2), MeanField(encoder=ReadCell(widths=8)), cells)
    with pytest.raises(TypeError, match="give Cells, not ndarray"):
        log_evidence(pair, cells.x.numpy())
    with pytest.raises(ValueError, match="at least 1"):
        log_evidence(pair, cells, particles=0)
