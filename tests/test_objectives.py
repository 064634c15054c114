"""Objectives beside the bound."""

import copy
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from fits import moved, pyros, quick
from torch import nn

from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.inference.distributed import Ranks
from pyroscvi.inference.elbo import joint, negative_elbo
from pyroscvi.inference.loss import Loss
from pyroscvi.inference.objectives import Adversary, Classifier, FreeBits, Reconstruction, log_levels
from pyroscvi.inference.run import Run
from pyroscvi.inference.schedules import Constant, CosineDecay
from pyroscvi.inference.seeds import seeded
from pyroscvi.models import GMVAE, SCVI, Annotated
from pyroscvi.parts import ZINB, Linear, Log1pNormal, Mixture, Poisson, ReadCell
from pyroscvi.program import Guide, Model


def test_classifier_is_bayes_rule(cells):
    m, g = moved(Annotated(latent=3), MeanField(), cells, torch.float32)
    with torch.no_grad(), seeded(5):
        loss = Classifier(weight=2.0)(m, g, cells)
    with torch.no_grad(), seeded(5):
        _, q = joint(m, g, cells)
        z = q["z"]["value"]
    by_hand = m.w.log_softmax(-1) + dist.Normal(m.m, m.s).to_event(1).log_prob(z.unsqueeze(1))
    by_hand = -2 * by_hand.log_softmax(-1).detach()
    labelled = cells.label >= 0
    assert torch.allclose(loss[labelled], by_hand[labelled, cells.label[labelled]], atol=1e-5)
    assert (loss[~labelled] == 0).all()


def test_the_classifier_reads_labels_that_are_weights(cells):
    m, g = moved(Annotated(latent=3), MeanField(), cells, torch.float32)
    as_weights = replace(cells, belief=3 * cells.label_weights(3))
    losses = []
    for data in (cells, as_weights):
        with torch.no_grad(), seeded(5):
            losses.append(Classifier(weight=2.0)(m, g, data))
    assert torch.allclose(*losses, atol=1e-5)


def test_the_classifier_lowers_the_loss_of_labels(cells):
    def label_loss(f):
        d = f.describe(cells)
        return d.class_loss.nanmean()

    options = {"epochs": 40, "lr": 1e-2, "early_stopping": False}
    without, with_it = (
        quick(Annotated(latent=3), MeanField(), cells, objectives=o, **options) for o in ([], [Classifier(20.0)])
    )
    assert label_loss(with_it) < label_loss(without)


def test_classifier_needs_a_page_with_labels(cells):
    with pytest.raises(KeyError, match="no enumerated site 'y'"):
        quick(SCVI(latent=3), MeanField(), cells, objectives=[Classifier()])
    with pytest.raises(KeyError, match="no field 'type'"):
        quick(Annotated(latent=3), MeanField(), cells, objectives=[Classifier(field="type")])


def test_log_levels_of_a_mixture(cells):
    m, g = moved(GMVAE(latent=3), MeanField(), cells, torch.float32)
    p, q = joint(m, g, cells)
    assert torch.allclose(log_levels(p, "k").exp(), m.responsibilities(q["z"]["value"]), atol=1e-5)


BLIND = [SCVI(latent=3), SCVI(latent=3, prior=Mixture(components=3), decoder=Linear()), GMVAE(latent=3)]


def blind(model, cells):
    """Its decoder does not use z, so that only the KL depends on the guide."""
    model, guide = moved(model, MeanField(), cells)
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.zero_()
    return nn.ModuleDict({"model": model, "guide": guide}), list(guide.parameters())


def slope(trained, parameters, cells, beta, *objectives):
    torch.manual_seed(0)
    loss = Loss(trained, objectives, len(cells))(cells, beta)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return max(g.abs().max().item() for g in gradients if g is not None)


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("model", BLIND, ids=repr)
def test_below_the_bits_the_kl_costs_nothing_at_any_weight(model, beta, cells):
    cells = cells.to("cpu", torch.float64)
    trained, parameters = blind(model, cells)
    assert slope(trained, parameters, cells, beta) > 1e-3
    assert slope(trained, parameters, cells, beta, FreeBits(1e3)) < 1e-12
    assert slope(trained, parameters, cells, beta, FreeBits(-1e3)) == slope(trained, parameters, cells, beta)


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_below_the_bits_the_loss_is_that_of_the_bits(beta, cells):
    cells = cells.to("cpu", torch.float64)
    trained, _ = blind(SCVI(latent=3), cells)
    torch.manual_seed(0)
    at_zero = Loss(trained, (), len(cells))(cells, 0.0)
    torch.manual_seed(0)
    assert torch.allclose(Loss(trained, (FreeBits(1e3),), len(cells))(cells, beta), at_zero + beta * 1e3)


def test_a_weight_of_the_counts_is_the_inverse_of_a_weight_of_the_kl(cells):
    """2 log p(x | z) - KL = 2 (log p(x | z) - KL / 2), for a decoder whose weights have no prior."""
    cells = cells.to("cpu", torch.float64)
    model, guide = moved(SCVI(latent=3, decoder=Linear()), MeanField(), cells)
    trained = nn.ModuleDict({"model": model, "guide": guide})
    doubled, halved = (
        seeded_loss(trained, cells, beta, *objectives) for beta, objectives in [(1.0, [Reconstruction(2.0)]), (0.5, [])]
    )
    assert torch.allclose(doubled, 2 * halved)


def seeded_loss(trained, cells, beta, *objectives):
    torch.manual_seed(0)
    return Loss(trained, objectives, len(cells))(cells, beta)


@pytest.mark.parametrize("likelihood", [Poisson(), ZINB(), Log1pNormal()], ids=repr)
def test_gene_weights_of_one_change_nothing_and_of_zero_leave_a_gene_out(likelihood, cells):
    cells = cells.to("cpu", torch.float64)
    model, guide = moved(SCVI(latent=3, likelihood=likelihood), MeanField(), cells)
    trained = nn.ModuleDict({"model": model, "guide": guide})
    whole = seeded_loss(trained, cells, 1.0)
    assert torch.allclose(seeded_loss(trained, cells, 1.0, Reconstruction(genes=(1.0,) * 12)), whole)
    without = seeded_loss(trained, cells, 1.0, Reconstruction(genes=(1.0,) * 5 + (0.0,) + (1.0,) * 6))
    torch.manual_seed(0)
    p, _ = joint(model, guide, cells)
    x = p["x"]["fn"]
    of_genes = x.log_density(cells.x) if isinstance(likelihood, Log1pNormal) else x.log_pmf(cells.x)
    assert torch.allclose(without, whole + of_genes[:, 5].mean())
    with pytest.raises(ValueError, match="2 weights for 12 genes"):
        seeded_loss(trained, cells, 1.0, Reconstruction(genes=(1.0, 2.0)))


def test_weights_by_variance_are_small_for_genes_that_vary(cells):
    weights = torch.tensor(Reconstruction.by_variance(cells).genes)
    variances = cells.x.log1p().var(0)
    assert weights.mean() == pytest.approx(1)
    assert torch.equal(weights.argsort(), (-variances).argsort())


def test_the_adversarys_gradient_is_reversed_for_the_guide_alone(cells):
    cells = cells.to("cpu", torch.float64)
    model, guide = moved(SCVI(latent=3), MeanField(), cells)
    slopes = []
    for weight in (1.0, 3.0):
        torch.manual_seed(0)
        adversary = Adversary("batch", weight).sized(guide, cells.dims).to(torch.float64)
        torch.manual_seed(1)
        loss = adversary(model, guide, cells).mean()
        of_guide, of_network = guide.heads["z"].weight, adversary.out.weight
        slopes.append(torch.autograd.grad(loss, [of_guide, of_network]))
    assert torch.allclose(slopes[1][0], 3 * slopes[0][0])
    assert torch.allclose(slopes[1][1], slopes[0][1])
    torch.manual_seed(1)
    z = guide.posteriors(cells)["z"].rsample()
    plain = torch.nn.functional.cross_entropy(adversary.out(adversary.hidden(z, z[:, :0])), cells.batch)
    assert torch.allclose(torch.autograd.grad(plain, guide.heads["z"].weight)[0], -slopes[0][0])
    assert torch.allclose(loss, plain)


def test_an_adversary_is_declared_as_other_parts_and_trained_with_the_fit(cells):
    f = quick(SCVI(latent=3), MeanField(), cells, objectives=[Adversary(weight=2.0)])
    assert f.record["settings"]["objectives"] == ["Adversary(weight=2.0)"]
    with pytest.raises(ValueError, match="one level of 'label'"):
        quick(SCVI(latent=3), MeanField(), cells_without_labels(cells), objectives=[Adversary("label")])
    with pytest.raises(KeyError, match="the guide has no site 'u'; it has z"):
        quick(SCVI(latent=3), MeanField(), cells, objectives=[Adversary(site="u")])


def cells_without_labels(cells):
    return replace(cells, categories={"batch": cells.batch}, levels={"batch": ("a", "b")})


@pytest.mark.parametrize("size", [20, 23])
def test_four_minibatches_accumulated_are_one_of_four_times_the_size(size, cells):
    """The same loss and gradient if the guide has no noise; a latent that cells share counts once."""
    cells = replace(cells.to("cpu", torch.float64), graph=None)
    model, guide = moved(SCVI(latent=3, likelihood=Poisson()), MeanField(ReadCell(dropout=0)), cells)
    with torch.no_grad():
        guide.heads["z"].bias[3:] = -40.0
        guide.heads["z"].weight[3:] = 0.0
    results = []
    for accumulate in (1, 4):
        run = Run(
            *copy.deepcopy((model, guide)), cells, None, 1, size, 1e-2, CosineDecay(), Constant(), None, 1e9, (), 0,
            accumulate=accumulate,
        )  # fmt: skip
        run.trained.train()
        run.beta = 1.0
        loss = run._accumulated(cells.take(torch.arange(size)), 1.0)
        results.append((loss, [p.grad for p in run.parameters]))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-3)  # sigma is 1e-4
    for one, two in zip(*(gradients for _, gradients in results), strict=True):
        assert torch.allclose(one, two, atol=1e-2 * one.abs().max().clamp(min=1e-3))


@pytest.mark.parametrize("size", [16, 9, 7, 2])
def test_processes_that_share_a_fit_read_a_minibatch_in_equally_many_pieces(size, cells):
    """Otherwise one would wait for gradients that the other never computes."""
    cells = replace(cells, graph=None)
    model, guide = moved(SCVI(latent=3), MeanField(), cells)
    run = Run(model, guide, cells, None, 1, 16, 1e-2, CosineDecay(), Constant(), None, 1e9, (), 0, accumulate=4)
    read = {}
    for rank in (0, 1):
        run.ranks = Ranks(rank, 2)
        mine = cells.take(torch.arange(rank, size, 2))
        read[rank] = []
        run._differentiate = lambda piece, weight, sizes=read[rank]: sizes.append(len(piece)) or torch.zeros(())
        run._accumulated(mine, run.ranks.weight(len(mine), size))
    assert len(read[0]) == len(read[1]) <= 4
    assert sum(read[0] + read[1]) == size
    assert 0 not in read[0] + read[1]


def test_a_fit_accumulates_and_says_so(cells):
    f = quick(SCVI(latent=3), MeanField(), cells, batch_size=5, accumulate=4)
    assert (f.record["settings"]["batch_size"], f.record["settings"]["accumulate"]) == (20, 4)
    with pytest.raises(ValueError, match="accumulate is a number of minibatches, at least 1, not 0"):
        quick(SCVI(latent=3), MeanField(), cells, accumulate=0)


def test_an_objective_with_parameters_is_trained_too(cells):
    class Pull(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.zeros(()))

        def forward(self, model, guide, minibatch):
            return ((self.a - 3) ** 2).expand(len(minibatch))

    pull = Pull()
    quick(SCVI(latent=3), MeanField(), cells, epochs=5, lr=1e-1, objectives=[pull], early_stopping=False)
    assert pull.a > 0.5


def test_a_models_own_latent_sites_of_any_kind(cells):
    """A page written by a user: two local latents, one of them positive, and one that all cells share."""

    class Mine(Model):
        def build(self, dims):
            self.W = nn.Parameter(torch.randn(dims.genes, 2))

        def model(self, cells):
            b = pyro.sample("b", dist.Normal(torch.zeros(12), 1.0).to_event(1))
            with cells.plate():
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                s = pyro.sample("s", dist.Gamma(torch.ones(1) * 3, 1.0).to_event(1))
                log_mu = z @ self.W.T + b + s.log()
                pyro.sample("x", dist.Poisson(log_mu.exp()).to_event(1), obs=cells.x)

    f = quick(Mine(), FullCovariance(), cells, epochs=20, lr=1e-2, early_stopping=False)
    assert f.history["elbo_train"].iloc[-1] > f.history["elbo_train"].iloc[0]
    assert f.latent(cells, site="s").min() > 0
    assert f.latent(cells, site="b").shape == (12,)
    m, g = f.model, f.guide
    with torch.no_grad(), seeded(0):
        ours = negative_elbo(m, g, cells, analytic=False)
    with seeded(0):
        assert ours.item() == pytest.approx(pyros().loss(m, g, cells), rel=1e-5)


def test_guides_and_models_are_what_was_declared(cells):
    f = quick(SCVI(latent=3, likelihood=Poisson()), MeanField(), cells)
    assert isinstance(f.model, Model)
    assert isinstance(f.guide, Guide)
    assert repr(f).startswith("Fit(SCVI(latent=3, likelihood=Poisson()), MeanField(); 3 epochs")
    assert "<code>SCVI" in f._repr_html_()
