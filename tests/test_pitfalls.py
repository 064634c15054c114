"""A course in pitfalls of Pyro and PyTorch. Each one caused an error here once; its test shows the right behaviour."""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO
from torch import nn
from torch.testing import assert_close

from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.handlers import intervene, read, temper, unknown
from pyroscvi.models import CVAE, GMVAE, SCVI, Annotated
from pyroscvi.part import Part
from pyroscvi.parts import (
    MLP,
    NB,
    BatchNorm,
    Embedding,
    LatentSize,
    LayerNorm,
    Mixture,
    OneHot,
    PerBatch,
    StandardNormal,
)
from pyroscvi.parts.layers import beside
from pyroscvi.program import Model


def loss(model, guide, cells, seed=1):
    """The negative ELBO from one sample of the guide, as Pyro computes it."""
    torch.manual_seed(seed)
    return TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False).loss(model, guide, cells)


def sized_pair(cells, model=None, guide=None):
    model = (model or SCVI(latent=3, likelihood=NB())).sized(cells.dims)
    return model, (guide or MeanField()).sized(model, cells)


def train(model, guide, cells, steps=3):
    svi = SVI(
        model,
        guide,
        pyro.optim.Adam({"lr": 1e-2}),
        TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    )
    return [svi.step(cells) for _ in range(steps)]


def test_a_model_trains_the_same_after_another_model_in_the_same_process(cells):
    def run(first):
        for _ in range(first):
            torch.manual_seed(5)
            train(*sized_pair(cells), cells)
        torch.manual_seed(0)
        model, guide = sized_pair(cells)
        return train(model, guide, cells), model.state_dict()

    (losses, state), (losses_after, other) = run(0), run(1)
    assert losses == losses_after
    assert all(torch.equal(state[k], other[k]) for k in state)
    assert not pyro.get_param_store().keys()


def test_every_parameter_is_a_param_site(cells):
    """SVI trains param sites only: it ignores other parameters without a warning."""
    for program in sized_pair(cells):
        seen = {n for n, s in poutine.trace(program).get_trace(cells).nodes.items() if s["type"] == "param"}
        assert seen == {name for name, _ in program.named_parameters()}


def test_missing_labels_are_summed_out_and_not_sampled(cells):
    """With z given, the loss is the same for every seed, because nothing else is random."""
    model, _ = sized_pair(cells, Annotated(latent=3))
    unlabelled = replace(cells, categories={"batch": cells.batch})
    z = torch.randn(len(cells), 3)

    def given(cells):
        with cells.plate():
            pyro.sample("z", dist.Delta(z, event_dim=1))

    model.eval()
    assert loss(model, given, unlabelled, seed=1) == loss(model, given, unlabelled, seed=2)
    log_joint = model.w.log_softmax(-1) + dist.Normal(model.m, model.s).to_event(1).log_prob(z.unsqueeze(-2))
    eta = model.decoder(z, model.condition(unlabelled))
    log_x = model.likelihood(unlabelled.library, model.likelihood.dispersion(unlabelled), **eta).log_prob(unlabelled.x)
    assert loss(model, given, unlabelled) == pytest.approx(-(log_joint.logsumexp(-1) + log_x).sum().item(), rel=1e-5)


def test_every_discrete_latent_of_the_zoo_is_enumerated(cells):
    import pyroscvi as ps

    for name in ps.list_models():
        trace = poutine.trace(ps.create(name).sized(cells.dims)).get_trace(cells)
        for site in trace.nodes.values():
            if site["type"] == "sample" and not site["is_observed"] and not poutine.util.site_is_subsample(site):
                assert site["fn"].support.is_discrete == (site["infer"].get("enumerate") == "parallel")


def test_a_guide_refuses_a_discrete_latent_that_is_not_enumerated(cells):
    class Coin(Model):
        def model(self, cells):
            with cells.plate():
                k = pyro.sample("k", dist.Bernoulli(0.5))
                pyro.sample("x", dist.Poisson(1 + k.unsqueeze(-1).expand(cells.x.shape)).to_event(1), obs=cells.x)

    with pytest.raises(ValueError, match=r"'k' is discrete.*enumerate"):
        sized_pair(cells, Coin())


@pytest.mark.parametrize("model", [GMVAE(latent=3), Annotated(latent=3), SCVI(latent=3, prior=Mixture(components=3))])
def test_a_kl_weight_applies_inside_the_sum_over_an_enumerated_latent(model, cells):
    """-log sum_k p(k, z)^beta p(x | z). A weight of 1 changes nothing. Pyro's ``scale`` raises an error here."""
    model, guide = sized_pair(cells, model)
    model.eval(), guide.eval()

    def tempered(beta):
        with temper(beta):
            return loss(model, guide, cells)

    assert tempered(1.0) == loss(model, guide, cells)
    z = torch.randn(len(cells), 3)

    def given(cells):
        with cells.plate():
            pyro.sample("z", dist.Delta(z, event_dim=1))

    means, scales, logits = (
        getattr(getattr(model, "prior", model), a) if hasattr(getattr(model, "prior", model), a) else None
        for a in ("m", "s", "w")
    )
    log_prior = logits.log_softmax(-1) + dist.Normal(means, scales).to_event(1).log_prob(z.unsqueeze(-2))
    log_label = (cells.label_weights(3) @ model.C.T).log() if isinstance(model, Annotated) else 0.0
    eta = model.decoder(z, model.condition(cells))
    log_x = model.likelihood(cells.library, model.likelihood.dispersion(cells), **eta).log_prob(cells.x)
    with temper(0.5):
        value = loss(model, given, cells)
    assert value == pytest.approx(-((0.5 * log_prior + log_label).logsumexp(-1) + log_x).sum().item(), rel=1e-5)


def test_the_plate_uses_the_rows_of_the_minibatch_and_samples_none(cells):
    rows = torch.tensor([5, 3, 40])
    with cells.take(rows).plate() as indices:
        pass
    assert torch.equal(indices, rows)


def test_with_layer_norm_p_of_a_cell_does_not_depend_on_other_cells_of_the_minibatch(cells):
    """With batch norm in training mode it does."""
    z, d = torch.randn(6, 3), torch.zeros(6, 0)
    for norm, independent in ((LayerNorm(), True), (BatchNorm(), False)):
        decoder = MLP(norm=norm).sized(cells.dims, latent=3, conditions=0, heads=("rho",))
        together, alone = decoder(z, d)["rho"][:2], decoder(z[:2], d[:2])["rho"]
        assert torch.allclose(together, alone, atol=1e-5) == independent


def test_batch_norm_of_one_cell_is_finite():
    norm = BatchNorm().sized(4)
    assert norm(torch.randn(1, 4)).isfinite().all()
    assert norm(torch.randn(3, 1, 4)).shape == (3, 1, 4)


def test_inputs_of_a_network_broadcast_over_particles_and_components():
    z, d = torch.randn(7, 5, 6, 3), torch.randn(6, 2)
    assert_close(beside(z, d), torch.cat([z, d.expand(7, 5, 6, 2)], -1))
    assert beside(z, torch.zeros(6, 0)) is not None
    assert beside(z, torch.zeros(6, 0)).shape == z.shape


def test_the_default_of_a_slot_does_not_hide_the_sized_part(cells):
    model = SCVI(prior=Mixture(components=3)).sized(cells.dims)
    assert "prior" not in vars(SCVI)
    assert "prior.w" in dict(model.named_parameters())


def test_a_slot_named_like_an_attribute_of_a_base_class_is_refused():
    class Base(Part):
        def prior(self): ...

    with pytest.raises(TypeError, match="hides it"):

        class Hidden(Base):
            prior: Part = StandardNormal()


def test_two_models_sized_from_one_declaration_share_no_parameters(cells):
    declared = SCVI(likelihood=NB())
    one, two = declared.sized(cells.dims), declared.sized(cells.dims)
    assert not {id(p) for p in one.parameters()} & {id(p) for p in two.parameters()}
    assert not list(declared.parameters())


def test_full_covariance_predicts_the_factor_and_not_the_covariance(cells):
    """The second argument of MultivariateNormal is the covariance: ``scale_tril`` must be passed by name."""
    _, guide = sized_pair(cells, guide=FullCovariance())
    q = guide.posteriors(cells)["z"]
    assert_close(q.covariance_matrix, q.scale_tril @ q.scale_tril.mT)


def test_an_intervention_changes_its_condition_and_no_other(cells):
    model, _ = sized_pair(cells, CVAE(latent=3, condition=Embedding("drug", width=4) + OneHot("batch")))
    with intervene(drug=2):
        d = model.condition(cells)
        assert torch.equal(read(cells, "drug"), torch.full((len(cells),), 2))
    assert torch.equal(d[:, :4], model.condition.members[0].table.weight[2].expand(len(cells), 4))
    assert torch.equal(d[:, 4:], model.condition(cells)[:, 4:])
    assert not torch.equal(d, model.condition(cells))


def test_an_unknown_condition_is_summed_out(cells):
    model, guide = sized_pair(cells, CVAE(latent=3, condition=OneHot("drug")))
    model.eval(), guide.eval()
    z = torch.randn(len(cells), 3)

    def given(cells):
        with cells.plate():
            pyro.sample("z", dist.Delta(z, event_dim=1))

    log_prior = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    by_level = []
    for level in range(4):
        with intervene(drug=level):
            eta = model.decoder(z, model.condition(cells))
        by_level.append(model.likelihood(cells.library, model.likelihood.dispersion(cells), **eta).log_prob(cells.x))
    summed = (torch.stack(by_level, -1) + log_prior).logsumexp(-1).sum()
    prior_of_z = dist.Normal(0.0, 1.0).log_prob(z).sum()
    value = loss(unknown("drug", log_prior)(model), given, cells)
    assert value == pytest.approx(-(summed + prior_of_z).item(), rel=1e-5)


def test_a_condition_on_an_unknown_field_names_the_field_and_those_that_exist(cells):
    with pytest.raises(KeyError, match=r"'dose'.*batch.*drug.*label"):
        CVAE(condition=OneHot("dose")).sized(cells.dims)


def test_torch_modules_in_a_users_model_are_trained(cells):
    class Own(Model):
        def build(self, dims):
            super().build(dims)
            self.net = nn.Linear(2, dims.genes)

        def model(self, cells):
            with cells.plate():
                u = pyro.sample("u", dist.Normal(torch.zeros(2), 1).to_event(1))
                pyro.sample("x", dist.Poisson(self.net(u).exp()).to_event(1), obs=cells.x)

    model, guide = sized_pair(cells, Own())
    before = model.net.weight.clone()
    train(model, guide, cells, 1)
    assert not torch.equal(before, model.net.weight)


@pytest.mark.parametrize(
    "slot", [{"likelihood": NB(dispersion=PerBatch())}, {"size": LatentSize(), "likelihood": NB()}]
)
def test_an_unknown_batch_does_not_get_the_parameters_of_the_last_batch(slot, cells):
    """An unknown batch has code -1, which indexes the last row in PyTorch. So the order of batches must not matter."""
    model, _ = sized_pair(cells, SCVI(latent=3, **slot))
    unknown_batch = replace(cells, categories={"batch": torch.full((len(cells),), -1)}, graph=None)

    def values():
        dispersion = model.likelihood.dispersion
        torch.manual_seed(0)
        trace = poutine.trace(model).get_trace(unknown_batch)
        size = trace.nodes["l"]["fn"].base_dist.loc if "l" in trace.nodes else torch.zeros(1)
        return dispersion(unknown_batch), size

    with torch.no_grad():
        if isinstance(model.likelihood.dispersion, PerBatch):
            model.likelihood.dispersion.log_theta.normal_()
        before = values()
        for rows in (
            model.likelihood.dispersion.log_theta,
            getattr(model.size, "m", None),
            getattr(model.size, "s", None),
        ):
            if rows is not None and len(rows) == 2:
                rows.copy_(rows.flip(0).clone())
        for a, b in zip(before, values(), strict=True):
            assert_close(a, b)
