"""A user's own prior, model or guide works without registration: it only subclasses Model, Guide or a slot."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

import pyroscvi as ps
from pyroscvi.distributions import NegativeBinomial
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, Decoder, Likelihood, Linear, Mixture, Prior, StandardNormal
from pyroscvi.program import Guide, Model


class Cauchy(Prior):
    """z ~ Cauchy(0, b)."""

    b: float = 0.5

    def build(self, latent):
        self.register_buffer("loc", torch.zeros(latent))

    def forward(self):
        return pyro.sample("z", dist.Cauchy(self.loc, self.b).to_event(1))


class TwoFactor(Model):
    """u ~ Normal(0, I);  v ~ Laplace(0, 1);  x ~ NB(l softmax(A u + B v), theta)."""

    likelihood: Likelihood = NB()

    def build(self, dims):
        super().build(dims)
        self.A, self.B = nn.Linear(2, dims.genes), nn.Linear(3, dims.genes)

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            u = pyro.sample("u", dist.Normal(torch.zeros(2), 1).to_event(1))
            v = pyro.sample("v", dist.Laplace(torch.zeros(3), 1).to_event(1))
            pyro.sample("x", self.likelihood(cells.library, log_theta, rho=self.A(u) + self.B(v)), obs=cells.x)


class Topics(Model):
    """theta ~ LogNormal(0, 1);  p ~ Dirichlet(1);  x ~ NB(l p B, theta): a simplex, and a shared latent."""

    topics: int = 4

    def build(self, dims):
        self.B = nn.Parameter(torch.randn(self.topics, dims.genes))

    def model(self, cells):
        theta = pyro.sample("theta", dist.LogNormal(torch.zeros(cells.x.shape[-1]), 1.0).to_event(1))
        with cells.plate():
            p = pyro.sample("p", dist.Dirichlet(torch.ones(self.topics)))
            log_mu = cells.library.log() + (p @ self.B.softmax(-1)).log()
            pyro.sample("x", NegativeBinomial(log_mu, theta.log()), obs=cells.x)


class StudentField(Guide):
    """q(z | x) = StudentT(4, mu(h), sigma(h)), a family that the zoo does not have."""

    def head(self, width, size):
        return nn.Linear(width, 2 * size)

    def posterior(self, parameters):
        mu, raw_sigma = parameters.chunk(2, -1)
        return dist.StudentT(4.0, mu, softplus(raw_sigma) + 1e-4).to_event(1)


def short_fit(model, guide, cells):
    return ps.fit(model, guide, cells, epochs=25, batch_size=20, lr=1e-2, early_stopping=False, progress=False)


def loss_falls(f):
    losses = f.history["loss"]
    return losses[-3:].mean() < losses[:3].mean()


def test_a_users_prior_prints_as_typed_and_is_fitted(cells):
    declared = SCVI(latent=3, prior=Cauchy(b=0.3), likelihood=NB())
    assert repr(declared) == "SCVI(latent=3, prior=Cauchy(b=0.3), likelihood=NB())"
    assert loss_falls(short_fit(declared, MeanField(), cells))


@pytest.mark.parametrize("guide", [MeanField(), FullCovariance(), StudentField()], ids=repr)
def test_a_users_model_is_fitted_under_any_guide(guide, cells):
    f = short_fit(TwoFactor(), guide, cells)
    assert list(f.guide.sites) == ["u", "v"]
    assert f.latent(cells, site="v").shape == (len(cells), 3)
    assert loss_falls(f)


@pytest.mark.parametrize("guide", [MeanField(), FullCovariance()], ids=repr)
def test_a_users_model_may_have_shared_and_constrained_latents(cells, guide):
    f = short_fit(Topics(), guide, cells)
    sites = {name: (site.size, site.local) for name, site in f.guide.sites.items()}
    assert sites == {"theta": (12, False), "p": (3, True)}
    assert loss_falls(f)
    assert np.isfinite(ps.log_evidence(f, cells, particles=5)).all()  # given theta at the centre of its posterior


def test_a_users_model_is_loaded_only_if_its_class_is_given(cells, tmp_path):
    f = short_fit(TwoFactor(), MeanField(), cells)
    f.save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit", parts=(TwoFactor,))
    assert (again.latent(cells, site="u") == f.latent(cells, site="u")).all()
    with pytest.raises((KeyError, ValueError), match="TwoFactor"):
        ps.load(tmp_path / "fit")


class Doublets(Model):
    """k ~ Bernoulli(0.1), which a mixture prior calls its component, too."""

    latent: int = 2
    prior: Prior = StandardNormal()
    decoder: Decoder = Linear()
    likelihood: Likelihood = NB()

    def model(self, cells):
        log_theta = self.likelihood.dispersion(cells)
        with cells.plate():
            k = pyro.sample("k", dist.Bernoulli(0.1), infer={"enumerate": "parallel"}).unsqueeze(-1)
            eta = self.decoder(self.prior() * (1 - k / 2), torch.zeros(len(cells), 0))
            pyro.sample("x", self.likelihood(cells.library, log_theta, **eta), obs=cells.x)


def test_two_sites_of_one_name_are_refused_in_words(cells):
    MeanField().sized(Doublets().sized(cells.dims), cells)
    with pytest.raises(ValueError, match=r"Doublets samples two sites 'k'.* another name: Doublets\(.*Mixture"):
        MeanField().sized(Doublets(prior=Mixture(3)).sized(cells.dims), cells)
