"""Objectives beside the bound."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from fits import moved, pyros, quick
from torch import nn

from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.inference.elbo import bound, joint, negative_elbo
from pyroscvi.inference.objectives import Classifier, FreeBits, log_levels
from pyroscvi.inference.seeds import seeded
from pyroscvi.models import GMVAE, SCVI, Annotated
from pyroscvi.parts import Poisson
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


def test_classifier_teaches_labels(cells):
    def told(f):
        d = f.describe(cells)
        return d.class_loss.nanmean()

    options = {"epochs": 40, "lr": 1e-2, "early_stopping": False}
    without, with_it = (
        quick(Annotated(latent=3), MeanField(), cells, objectives=o, **options) for o in ([], [Classifier(20.0)])
    )
    assert told(with_it) < told(without)


def test_classifier_needs_a_page_with_labels(cells):
    with pytest.raises(KeyError, match="no enumerated site 'y'"):
        quick(SCVI(latent=3), MeanField(), cells, objectives=[Classifier()])
    with pytest.raises(KeyError, match="no field 'type'"):
        quick(Annotated(latent=3), MeanField(), cells, objectives=[Classifier(field="type")])


def test_log_levels_of_a_mixture(cells):
    m, g = moved(GMVAE(latent=3), MeanField(), cells, torch.float32)
    p, q = joint(m, g, cells)
    assert torch.allclose(log_levels(p, "k").exp(), m.responsibilities(q["z"]["value"]), atol=1e-5)


@pytest.mark.parametrize("model", [SCVI(latent=3), GMVAE(latent=3)], ids=repr)
def test_free_bits_give_back_what_is_below(model, cells):
    m, g = moved(model, MeanField(), cells, torch.float32)
    with torch.no_grad(), seeded(0):
        given = FreeBits(1e3)(m, g, cells)
    with torch.no_grad(), seeded(0):
        d = bound(m, g, cells, analytic=True)
    with torch.no_grad(), seeded(0):
        p, _ = joint(m, g, cells)
    x = p["x"]["fn"].log_prob(cells.x)
    assert torch.allclose(1e3 - given, x.reshape(-1, len(cells))[0] - d.cells, atol=1e-2)


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
