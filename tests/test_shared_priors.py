"""Priors of what cells share: of loadings, weights of a mixture, weights of a network; and a flow as the prior of z."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fits import quick
from pyro import poutine
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.guides import FullCovariance, LowRank, MeanField
from pyroscvi.inference.elbo import negative_elbo
from pyroscvi.models import SCVI, PoissonLognormal
from pyroscvi.parts import (
    NB,
    ARDLoadings,
    ARDWeights,
    DirichletWeights,
    FlowPrior,
    HorseshoeLoadings,
    LearnedWeights,
    Linear,
    Mixture,
    NormalLoadings,
    RandomDispersion,
    StandardNormal,
    StickBreaking,
)


def loss(model, guide, cells, seed=1):
    torch.manual_seed(seed)
    return negative_elbo(model, guide, cells)


def pair(model, guide, cells):
    torch.manual_seed(0)
    model = model.sized(cells.dims).eval()
    return model, guide.sized(model, cells).eval()


@pytest.mark.parametrize(
    ("loadings", "scale"), [(HorseshoeLoadings(tau=0.5), 12 * 2), (ARDLoadings(s=0.5), 2)], ids=repr
)
def test_with_scales_of_one_a_prior_that_shrinks_is_normal(loadings, scale, cells):
    def density(model, values):
        trace = poutine.trace(poutine.condition(model, values)).get_trace(cells)
        return trace.nodes["W"]["fn"].log_prob(values["W"])

    W = torch.randn(24)
    plain, _ = pair(PoissonLognormal(latent=2, decoder=Linear(loadings=NormalLoadings(s=0.5))), MeanField(), cells)
    shrunk, _ = pair(PoissonLognormal(latent=2, decoder=Linear(loadings=loadings)), MeanField(), cells)
    assert_close(density(shrunk, {"W": W, "W_scale": torch.ones(scale)}), density(plain, {"W": W}))


def test_ard_scales_belong_to_dimensions(cells):
    model, _ = pair(PoissonLognormal(latent=2, decoder=Linear(loadings=ARDLoadings())), MeanField(), cells)
    trace = poutine.trace(poutine.condition(model, {"W_scale": torch.tensor([1e-6, 1.0])})).get_trace(cells)
    W = trace.nodes["W"]["value"].view(12, 2)
    assert W[:, 0].abs().max() < 1e-4 < W[:, 1].abs().max()


SHARED = [
    PoissonLognormal(latent=2, decoder=Linear(loadings=HorseshoeLoadings())),
    PoissonLognormal(latent=2, decoder=Linear(loadings=ARDLoadings())),
    SCVI(latent=2, prior=Mixture(components=3, weights=StickBreaking())),
    SCVI(latent=2, prior=Mixture(components=3, weights=DirichletWeights()), likelihood=NB(RandomDispersion())),
]


@pytest.mark.parametrize("guide", [MeanField(), LowRank(), FullCovariance()], ids=repr)
@pytest.mark.parametrize("model", SHARED, ids=repr)
def test_shared_latents_under_every_gaussian_guide_and_in_minibatches(model, guide, cells):
    """For given latents, losses of minibatches average to that of all cells: shared latents count once."""
    model, guide = pair(model, guide, cells)
    drawn = poutine.trace(guide).get_trace(cells)
    values = {name: drawn.nodes[name]["value"].detach() for name in guide.sites}
    local = {name for name, site in guide.sites.items() if site.local}

    def given(some):
        for name in values.keys() - local:
            pyro.sample(name, dist.Delta(values[name], event_dim=1))
        with some.plate() as rows:
            for name in local:
                pyro.sample(name, dist.Delta(values[name][rows], event_dim=1))

    pieces = sum(negative_elbo(model, given, cells.take(i)) * len(i) / 60 for i in torch.arange(60).split(25))
    assert pieces.item() == pytest.approx(negative_elbo(model, given, cells).item(), rel=1e-5)


@pytest.mark.parametrize("model", SHARED[:3], ids=repr)
def test_fits_with_shared_priors_come_back_from_a_file(model, cells, tmp_path):
    f = quick(model, MeanField(), cells, epochs=2)
    assert np.isfinite(f.history["loss"]).all()
    f.save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit")
    assert repr(again.model) == repr(f.model)
    np.testing.assert_array_equal(again.latent(cells), f.latent(cells))


def test_two_sticks_of_a_one_are_a_flat_dirichlet(cells):
    """v ~ Beta(1, 1) is uniform, and so is (v, 1 - v) ~ Dirichlet(1, 1)."""
    sticks, flat = StickBreaking().sized(2), DirichletWeights().sized(2)
    with poutine.trace() as trace, sticks.drawn():
        w = sticks()
    v = trace.trace.nodes["v"]
    assert_close(w, torch.cat([v["value"], 1 - v["value"]]))
    with poutine.trace() as trace, poutine.condition(data={"w": w}), flat.drawn():
        pass
    assert_close(trace.trace.nodes["w"]["fn"].log_prob(w), v["fn"].log_prob(v["value"]), atol=1e-6, rtol=0)


def test_sticks_are_weights_and_a_small_a_leaves_one_component():
    one, many = StickBreaking(a=1e-3).sized(5), StickBreaking(a=50.0).sized(5)
    with one.drawn(), many.drawn():
        assert one()[0] > 0.9
        assert one().sum().item() == pytest.approx(1)
        assert many()[-1] > 0.5  # the rest of the stick


def test_weights_that_are_given_are_those_of_a_learnt_mixture(cells):
    fixed, guide = pair(SCVI(latent=2, prior=Mixture(components=3, weights=DirichletWeights())), MeanField(), cells)
    learnt, _ = pair(SCVI(latent=2, prior=Mixture(components=3)), MeanField(), cells)
    w = torch.tensor([0.2, 0.3, 0.5])
    learnt.load_state_dict(fixed.state_dict() | {"prior.w": w.log()}, strict=False)
    guide_of_z = MeanField().sized(learnt, cells).eval()
    guide_of_z.load_state_dict({k: v for k, v in guide.state_dict().items() if "heads.w" not in k}, strict=False)
    given = poutine.block(poutine.condition(fixed, {"w": w}), hide=["w"])
    assert_close(loss(given, guide_of_z, cells), loss(learnt, guide_of_z, cells))


def test_a_mixture_with_latent_weights_still_starts_at_clusters(cells):
    prior = Mixture(components=3, weights=StickBreaking()).sized(2)
    z = torch.randn(60, 2) + 10 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).repeat(20, 1)
    with torch.no_grad():
        prior.settle(z)
    assert prior.m.detach().norm(dim=-1).sort().values[1:].min() > 8
    assert prior.held(0.0) == []
    assert repr(Mixture(weights=LearnedWeights())) == "Mixture()"


def test_a_flow_prior_is_standard_normal_at_its_start(cells):
    flow, _ = pair(SCVI(latent=3, prior=FlowPrior()), MeanField(), cells)
    plain, _ = pair(SCVI(latent=3, prior=StandardNormal()), MeanField(), cells)
    plain.load_state_dict({k: v for k, v in flow.state_dict().items() if "to_noise" not in k})
    p, q = (poutine.trace(poutine.condition(m, {"z": torch.randn(60, 3)})).get_trace(cells) for m in (flow, plain))
    z = torch.randn(60, 3)
    assert torch.equal(p.nodes["z"]["fn"].log_prob(z), q.nodes["z"]["fn"].log_prob(z))


def test_a_flow_prior_has_the_density_of_its_draws(cells):
    """The mean of p(z) / q(z) over draws of a wide q is 1."""
    prior = FlowPrior(steps=2, hidden=8).sized(2)
    with torch.no_grad():
        for parameter in prior.to_noise.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    with poutine.trace() as trace:
        prior()
    p = trace.trace.nodes["z"]["fn"]
    wide = dist.Normal(torch.zeros(2), 4.0).to_event(1)
    z = wide.sample((20_000,))
    with torch.no_grad():
        weights = (p.log_prob(z) - wide.log_prob(z)).exp()
        drawn = p.sample((4000,))
    assert weights.mean().item() == pytest.approx(1, abs=5 * weights.std().item() / 20_000**0.5)
    mean = (weights.unsqueeze(-1) * z).mean(0)
    assert_close(drawn.mean(0), mean, atol=0.15, rtol=0)


def test_a_flow_prior_learns_the_shape_of_the_latents(cells):
    f = quick(SCVI(latent=2, prior=FlowPrior(hidden=8)), MeanField(), cells, epochs=2)
    assert f.generate(n=5).shape == (5, 12)
    assert any(p.abs().max() > 0 for network in f.model.prior.to_noise for p in network.nn.layers[-1].parameters())


def test_ard_weights_are_a_scale_that_is_integrated_out():
    """For one weight: int Normal(w | 0, r) Gamma(1/r^2 | a, a s^2) is a Student-t with 2 a degrees of freedom."""
    w = torch.linspace(-3, 3, 7).double()
    ours = torch.stack([ARDWeights(s=0.7, a=2.0)([one.view(1, 1)]) for one in w])
    t = dist.StudentT(4.0, 0.0, 0.7).log_prob(w)
    assert_close(ours - ours[3], t - t[3])
