"""A course in identities: two programs that are the same by mathematics must have the same loss or log-probability.

Each test writes one distribution, model or guide in two ways. Read in order, they explain the zoo from its likelihoods
to its guides. Two programs get the same parameters and the same seed, so that most losses agree in every digit.
"""

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from scipy import sparse
from torch.testing import assert_close

from pyroscvi.data.graph import nearest
from pyroscvi.distributions import (
    NegativeBinomial,
    Poisson,
    Shares,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from pyroscvi.evidence.table import estimand
from pyroscvi.guides import FullCovariance, LowRank, MeanField, SpatialGNN
from pyroscvi.models import CVAE, GMVAE, LDVAE, PPCA, SCVI, Annotated, PoissonLognormal
from pyroscvi.parts import (
    NB,
    ZINB,
    Exponential,
    LatentSize,
    Linear,
    Mixture,
    Nothing,
    OneHot,
    PerBatch,
    PerGene,
    SizeFactor,
    StandardNormal,
    VampPrior,
)


def loss(model, guide, cells, seed=1):
    """The negative ELBO from one sample of the guide, as Pyro computes it."""
    torch.manual_seed(seed)
    return TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False).loss(model, guide, cells)


def sized(cells, model, guide):
    """Model and guide with random parameters, in evaluation mode."""
    model = model.sized(cells.dims).eval()
    return model, guide.sized(model, cells).eval()


# 1. Likelihoods: the Poisson, the negative binomial, and both with extra zeros


@pytest.fixture
def draws():
    torch.manual_seed(0)
    x = torch.poisson(torch.full((3, 7), 2.0)).double()
    return x, torch.randn(3, 7).double(), torch.randn(7).double(), torch.randn(3, 7).double()


def test_zero_inflation_with_probability_zero_is_no_zero_inflation(draws):
    x, log_mu, log_theta, _ = draws
    closed = torch.full_like(log_mu, -800.0)  # logits of the probability of an extra zero
    assert_close(
        ZeroInflatedNegativeBinomial(log_mu, log_theta, closed).log_prob(x),
        NegativeBinomial(log_mu, log_theta).log_prob(x),
    )
    assert_close(ZeroInflatedPoisson(log_mu, closed).log_prob(x), Poisson(log_mu).log_prob(x))


def test_a_negative_binomial_with_infinite_theta_is_a_poisson(draws):
    x, log_mu, log_theta, gate = draws
    infinite = torch.full_like(log_theta, torch.inf)
    assert_close(NegativeBinomial(log_mu, infinite).log_prob(x), Poisson(log_mu).log_prob(x))
    assert_close(
        ZeroInflatedNegativeBinomial(log_mu, infinite, gate).log_prob(x), ZeroInflatedPoisson(log_mu, gate).log_prob(x)
    )


def test_shares_of_a_size_are_a_softmax_times_the_size(draws):
    x, eta, log_theta, _ = draws
    log_l = torch.randn(3, 1).double()
    assert_close(
        NegativeBinomial(Shares(eta, log_l), log_theta).log_prob(x),
        NegativeBinomial(log_l + eta.log_softmax(-1), log_theta).log_prob(x),
    )


def test_a_poisson_whose_rate_is_gamma_distributed_is_a_negative_binomial():
    """p(x) = int Poisson(x | r) Gamma(r | theta, theta / mu) dr, by a sum over a fine grid of rates."""
    theta, mu, x = 1.7, 3.0, torch.arange(6.0).double()
    rate = torch.linspace(1e-4, 80, 400_001).double()
    weight = dist.Gamma(theta, theta / mu).log_prob(rate).exp() * (rate[1] - rate[0])
    mixed = torch.stack([(dist.Poisson(rate).log_prob(k).exp() * weight).sum() for k in x]).log()
    ours = torch.stack(
        [
            NegativeBinomial(torch.tensor([mu]).double().log(), torch.tensor([theta]).double().log()).log_prob(k[None])
            for k in x
        ]
    )
    assert_close(ours, mixed, atol=1e-5, rtol=0)


# 2. Models: pages are special cases of each other, and sums over discrete latents are exact


def test_gmvae_is_scvi_with_a_mixture_prior_and_a_linear_decoder(cells):
    one, guide = sized(cells, GMVAE(latent=3, kinds=4), MeanField())
    two = SCVI(latent=3, prior=Mixture(components=4), decoder=Linear(), likelihood=NB()).sized(cells.dims).eval()
    names = {"w": "prior.w", "m": "prior.m", "raw_s": "prior.raw_s"}
    two.load_state_dict({names.get(k, k): v for k, v in one.state_dict().items()})
    assert list(guide.sites) == ["z"]
    assert loss(one, guide, cells) == loss(two, guide, cells)


def test_ldvae_is_scvi_with_a_linear_decoder_and_a_latent_size(cells):
    one, guide = sized(cells, LDVAE(latent=3), MeanField())
    two = SCVI(latent=3, size=LatentSize(), decoder=Linear(), likelihood=NB()).sized(cells.dims).eval()
    two.load_state_dict(one.state_dict())
    assert loss(one, guide, cells) == loss(two, guide, cells)


def test_cvae_conditioned_on_batch_only_is_scvi(cells):
    one, guide = sized(cells, SCVI(latent=3, decoder=CVAE().decoder, likelihood=NB()), MeanField())
    two = CVAE(latent=3, condition=OneHot("batch")).sized(cells.dims).eval()
    two.load_state_dict(one.state_dict())
    assert loss(one, guide, cells) == loss(two, guide, cells)


def test_poisson_lognormal_has_the_means_of_log_normal_rates(cells):
    """The log rate of a cell is log l + Normal(c, W W'), so the mean count of gene g is l exp(c_g + |W_g|^2 / 2)."""
    model = PoissonLognormal(latent=2, condition=Nothing()).sized(cells.dims).eval()
    with torch.no_grad():
        model.decoder.heads["rho"].weight.normal_(std=0.4)
    W, c = model.decoder.heads["rho"].weight, model.decoder.heads["rho"].bias
    many = replace(cells, graph=None).subset(torch.zeros(40_000, dtype=torch.long))
    with torch.no_grad():
        x = poutine.trace(poutine.uncondition(model)).get_trace(many).nodes["x"]["value"].double()
    log_mean = many.library[0].log() + c + 0.5 * (W**2).sum(-1)
    assert_close(x.mean(0), log_mean.exp().double().detach(), rtol=0.05, atol=0.02)


def test_summing_over_the_kind_by_enumeration_is_the_density_of_the_mixture(cells):
    """p(z) = sum_k w_k Normal(z | m_k, s_k), which Pyro has as MixtureSameFamily."""
    model, guide = sized(cells, GMVAE(latent=3, kinds=4), MeanField())

    def analytic(cells):
        with cells.plate():
            parts = dist.Normal(model.m, model.s).to_event(1)
            z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=model.w), parts))
            eta = model.decoder(z, model.condition(cells))
            pyro.sample("x", model.likelihood(cells.library, model.likelihood.dispersion(cells), **eta), obs=cells.x)

    assert loss(model, guide, cells) == pytest.approx(loss(analytic, guide, cells), rel=1e-6)


def test_a_vamp_prior_is_a_mixture_of_posteriors_of_the_guide_at_pseudo_cells(cells):
    """p(z) = sum_k w_k q(z | u_k)."""
    model, guide = sized(cells, SCVI(latent=3, prior=VampPrior(components=5)), FullCovariance())

    def analytic(cells):
        pseudo = replace(cells.subset(torch.arange(5)), counts=model.prior.u, graph=None, halo=None)
        with cells.plate():
            z = pyro.sample(
                "z", dist.MixtureSameFamily(dist.Categorical(logits=model.prior.w), guide.posteriors(pseudo)["z"])
            )
            eta = model.decoder(z, model.condition(cells))
            pyro.sample("x", model.likelihood(cells.library, model.likelihood.dispersion(cells), **eta), obs=cells.x)

    assert loss(model, guide, cells) == pytest.approx(loss(analytic, guide, cells), rel=1e-6)


def test_annotated_sums_over_the_type_of_a_cell(cells):
    """p(z, label) = sum_y w_y p(label | y) Normal(z | m_y, s_y)."""
    model, guide = sized(cells, Annotated(latent=3), MeanField())

    def analytic(cells):
        log_w = model.w.log_softmax(-1) + (cells.label_weights(3) @ model.C.T).log()  # log p(y) p(label | y), [n, y]
        with cells.plate():
            parts = dist.Normal(model.m, model.s).to_event(1)
            z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=log_w), parts.expand([len(log_w), 3])))
            pyro.factor("label", log_w.logsumexp(-1))
            eta = model.decoder(z, model.condition(cells))
            pyro.sample("x", model.likelihood(cells.library, model.likelihood.dispersion(cells), **eta), obs=cells.x)

    assert loss(model, guide, cells) == pytest.approx(loss(analytic, guide, cells), rel=1e-6)


def test_annotated_with_one_type_is_scvi_with_a_standard_normal_prior(cells):
    unlabelled = replace(cells, categories={"batch": cells.batch}, levels={})
    one, guide = sized(unlabelled, Annotated(latent=3), MeanField())
    with torch.no_grad():
        one.m.zero_()
        one.raw_s.fill_(float(np.log(np.expm1(1 - 1e-3))))
    two = SCVI(latent=3, likelihood=NB()).sized(unlabelled.dims).eval()
    two.load_state_dict({k: v for k, v in one.state_dict().items() if k not in ("w", "m", "raw_s", "C")}, strict=False)
    assert loss(one, guide, unlabelled) == pytest.approx(loss(two, guide, unlabelled), rel=1e-5)


def test_a_one_hot_row_of_weights_is_a_label(cells):
    model, guide = sized(cells, Annotated(latent=3), MeanField())
    soft = replace(cells, belief=cells.label_weights(3), categories={"batch": cells.batch})
    assert loss(model, guide, soft) == loss(model, guide, cells)


def test_missing_labels_have_probability_one(cells):
    """A missing label is a row of ones, and sum_j 1 p(j | y) = 1: the loss is that of the model without the site."""
    model, guide = sized(cells, Annotated(latent=3), MeanField())
    missing = replace(cells, categories={"batch": cells.batch, "label": torch.full((len(cells),), -1)})
    blocked = poutine.block(model, hide=["label"])
    assert loss(model, guide, missing) == pytest.approx(loss(blocked, guide, missing), rel=1e-6)


def test_the_posterior_and_evidence_of_ppca_satisfy_bayes_rule(cells):
    """log p(x) = log p(x, z) - log p(z | x) at any z."""
    model = PPCA(latent=3).sized(cells.dims)
    z = torch.randn(len(cells), 3)
    with torch.no_grad():
        joint = StandardNormal().sized(3)
        trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(replace(cells, graph=None))
        log_joint = trace.nodes["x"]["fn"].log_prob(cells.x) + dist.Normal(joint.loc, 1.0).to_event(1).log_prob(z)
        assert_close(
            log_joint - model.posterior(cells.x).log_prob(z), model.log_evidence(cells.x), rtol=1e-4, atol=1e-3
        )


def test_equal_dispersions_in_all_batches_are_one_dispersion_per_gene(cells):
    one, guide = sized(cells, SCVI(latent=3, likelihood=NB(dispersion=PerGene())), MeanField())
    two = SCVI(latent=3, likelihood=NB(dispersion=PerBatch())).sized(cells.dims).eval()
    state = one.state_dict()
    with torch.no_grad():
        one.likelihood.dispersion.log_theta.normal_()
    key = "likelihood.dispersion.log_theta"
    two.load_state_dict({**state, key: state[key].expand(2, -1)})
    assert loss(one, guide, cells) == loss(two, guide, cells)


def test_the_total_as_a_size_factor_is_the_observed_size(cells):
    one, guide = sized(cells, SCVI(latent=3, likelihood=ZINB()), MeanField())
    two = SCVI(latent=3, likelihood=ZINB(), size=SizeFactor()).sized(cells.dims).eval()
    two.load_state_dict(one.state_dict())
    with_factor = replace(cells, size_factor=cells.library.squeeze(-1))
    assert loss(one, guide, with_factor) == loss(two, guide, with_factor)
    assert (estimand(one, with_factor), estimand(two, with_factor)) == ("p(x | l)", "p(x | l)")


def test_a_softmax_link_is_an_exponential_link_of_log_softmax(cells):
    model, _ = sized(cells, SCVI(latent=3, likelihood=NB()), MeanField())
    free = NB(link=Exponential()).sized(cells.dims)
    free.load_state_dict(model.likelihood.state_dict())
    eta, log_theta = torch.randn(len(cells), 12), model.likelihood.dispersion(cells)
    assert_close(
        model.likelihood(cells.library, log_theta, rho=eta).log_prob(cells.x),
        free(cells.library, log_theta, rho=eta.log_softmax(-1)).log_prob(cells.x),
        rtol=1e-5,
        atol=1e-4,
    )


# 3. Guides: families contain each other, and a guide of tissue depends on neighbours and distances only


def test_full_covariance_with_zeros_below_the_diagonal_is_mean_field(cells):
    model, guide = sized(cells, SCVI(latent=3), FullCovariance())
    factor = guide.heads["z"]
    with torch.no_grad():
        factor.out.weight[6:] = 0
        factor.out.bias[6:] = 0
    plain = MeanField().sized(model, cells).eval()
    plain.encoder.load_state_dict(guide.encoder.state_dict())
    plain.heads["z"].load_state_dict({k: v[:6] for k, v in factor.out.state_dict().items()})
    z = torch.randn(len(cells), 3)
    assert_close(
        guide.posteriors(cells)["z"].log_prob(z), plain.posteriors(cells)["z"].log_prob(z), rtol=1e-5, atol=1e-4
    )


def test_low_rank_with_zero_columns_is_mean_field(cells):
    model, guide = sized(cells, SCVI(latent=3), LowRank(rank=2))
    with torch.no_grad():
        guide.heads["z"].weight[6:] = 0
        guide.heads["z"].bias[6:] = 0
    plain = MeanField().sized(model, cells).eval()
    plain.encoder.load_state_dict(guide.encoder.state_dict())
    plain.heads["z"].load_state_dict({k: v[:6] for k, v in guide.heads["z"].state_dict().items()})
    z = torch.randn(len(cells), 3)
    assert_close(
        guide.posteriors(cells)["z"].log_prob(z), plain.posteriors(cells)["z"].log_prob(z), rtol=1e-5, atol=1e-4
    )


def test_full_covariance_learns_a_negative_correlation():
    """Gradient descent on KL(q, p) for a Gaussian p with correlation -0.9: q has this correlation too."""
    target = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, -0.9], [-0.9, 1.0]]))
    torch.manual_seed(0)
    guide = FullCovariance()
    head = guide.head(1, 2)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(400):
        optimiser.zero_grad()
        torch.distributions.kl_divergence(guide.posterior(head(torch.ones(1))), target).backward()
        optimiser.step()
    covariance = guide.posterior(head(torch.ones(1))).covariance_matrix
    assert_close(covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt(), torch.tensor(-0.9), atol=1e-3, rtol=0)


def test_a_spatial_guide_without_edges_is_its_encoder_of_single_cells(cells):
    _, guide = sized(cells, SCVI(latent=3), SpatialGNN())
    no_edges = replace(cells, graph=None)
    assert_close(guide.encoder(no_edges), guide.encoder.cell(no_edges))
    assert (guide.encoder(cells) - guide.encoder.cell(cells)).abs().max() > 1e-2  # with edges it is not


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_a_spatial_encoder_returns_the_same_in_a_minibatch_and_in_the_whole_tissue(cells, hops):
    from pyroscvi.parts.neighbours import ReadNeighbours

    _, guide = sized(cells, SCVI(latent=3), SpatialGNN(encoder=ReadNeighbours(hops=hops)))
    whole = guide.encoder(cells)
    for batch in cells.minibatches(7, torch.Generator().manual_seed(0), hops):
        assert_close(guide.encoder(batch), whole[batch.index], atol=1e-5, rtol=1e-5)
    small_halo = replace(cells.take(torch.arange(7), hops - 1), hops=None)  # hops=None switches off the check
    assert (guide.encoder(small_halo) - whole[:7]).abs().max() > 1e-4  # so this test can fail


@pytest.mark.parametrize("dimensions", [2, 3])
def test_posteriors_do_not_change_when_the_tissue_is_rotated_mirrored_shifted_or_enlarged(cells, dimensions):
    generator = np.random.default_rng(0)
    place = generator.normal(size=(len(cells), dimensions))
    rotation, _ = np.linalg.qr(generator.normal(size=(dimensions, dimensions)))
    mirror = np.diag([-1.0] + [1.0] * (dimensions - 1))
    _, guide = sized(cells, SCVI(latent=3), SpatialGNN())
    one, two = (
        guide.posteriors(replace(cells, graph=nearest(p, neighbours=5)))["z"]
        for p in (place, 3.0 * place @ rotation @ mirror + 100)
    )
    assert_close(one.mean, two.mean, atol=1e-5, rtol=1e-5)
    assert_close(one.covariance_matrix, two.covariance_matrix, atol=1e-5, rtol=1e-5)


def test_posteriors_do_not_depend_on_the_order_of_cells(cells):
    _, guide = sized(cells, SCVI(latent=3), SpatialGNN())
    order = torch.randperm(len(cells))
    shuffled = replace(
        cells.subset(order), graph=sparse.csr_matrix(cells.graph[order.numpy()][:, order.numpy()]), halo=None
    )
    assert_close(guide.encoder(shuffled), guide.encoder(cells)[order], atol=1e-5, rtol=1e-5)
