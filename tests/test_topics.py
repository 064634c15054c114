"""Topics: blends of profiles, and the proportions of a cell."""

import numpy as np
import pytest
import torch
from fits import quick, untrained
from pyro import poutine
from test_identities import loss
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import SCVI, Topics
from pyroscvi.parts import NB, ZINB, Blend, Dirichlet, Linear, LogisticNormal, OneHot, Poisson, StandardNormal


def test_poisson_counts_of_topics_given_their_total_are_multinomial(cells):
    """log Poisson(x | l z B) = log Multinomial(x | l, z B) + log Poisson(l | l): latent Dirichlet allocation."""
    model, _ = untrained(Topics(latent=3), MeanField(), cells)
    with torch.no_grad():
        nodes = poutine.trace(model).get_trace(cells).nodes
        shares = nodes["z"]["value"] @ model.decoder.B
    l = cells.library.squeeze(-1)
    multinomial = torch.lgamma(l + 1) + (cells.x * shares.log() - torch.lgamma(cells.x + 1)).sum(-1)
    total = torch.distributions.Poisson(l).log_prob(l)
    assert_close(nodes["x"]["fn"].log_prob(cells.x), multinomial + total, rtol=1e-4, atol=1e-3)


def test_topics_are_scvi_with_a_prior_of_proportions_and_a_blend(cells):
    one, guide = untrained(Topics(latent=3, prior=LogisticNormal(s=2.0)), FullCovariance(), cells)
    two = SCVI(latent=3, prior=LogisticNormal(s=2.0), decoder=Blend(), likelihood=Poisson(), condition=one.condition)
    two = two.sized(cells.dims).eval()
    two.load_state_dict(one.state_dict())
    assert loss(one, guide, cells) == loss(two, guide, cells)


def test_a_blend_of_one_topic_has_its_profile(cells):
    decoder = Topics(latent=3).sized(cells.dims).decoder
    eta = decoder(torch.eye(3), torch.zeros(3, 0))
    assert_close(eta["rho"].exp(), decoder.B)
    assert_close(decoder.B.sum(-1), torch.ones(3))


def test_a_blend_takes_a_batch_and_the_heads_of_every_likelihood(cells):
    page = Topics(latent=3, condition=OneHot("batch"), likelihood=ZINB())
    assert np.isfinite(quick(page, MeanField(), cells).history["loss"]).all()


def test_a_blend_refuses_states_that_are_no_proportions(cells):
    with pytest.raises(ValueError, match=r"Blend\(\) needs.*Dirichlet\(\).*StandardNormal\(\)"):
        Topics(prior=StandardNormal()).sized(cells.dims)


@pytest.mark.parametrize("prior", [Dirichlet(a=0.3), LogisticNormal(s=2.0)], ids=repr)
def test_proportions_are_means_of_posterior_samples(prior, named):
    fit = quick(Topics(latent=3, prior=prior), MeanField(), named)
    table = fit.proportions(named, samples=20)
    assert list(table.columns) == ["topic0", "topic1", "topic2"]
    assert list(table.index) == list(named.names)
    np.testing.assert_allclose(table.sum(1), 1, rtol=1e-5)
    z = torch.as_tensor(fit.latent(named, 20))
    np.testing.assert_allclose(table, prior.state(z).mean(0), atol=1e-5)


def test_a_state_that_is_no_row_of_proportions_has_none(cells):
    fit = quick(SCVI(latent=2, decoder=Linear(), likelihood=NB()), MeanField(), cells)
    with pytest.raises(ValueError, match=r"StandardNormal\(\).*not a row of proportions.*Dirichlet"):
        fit.proportions(cells)


def test_topics_recover_the_profiles_of_cells_that_they_simulated():
    blank = Cells(torch.full((300, 20), 20.0))
    truth = Topics(latent=3, prior=Dirichlet(a=0.3)).sized(blank.dims)
    with torch.no_grad():
        truth.decoder.raw_B.copy_(2.0 * torch.randn(3, 20))
        nodes = poutine.trace(poutine.uncondition(truth)).get_trace(blank).nodes
    cells, z = Cells(nodes["x"]["value"]), nodes["z"]["value"]
    page = Topics(latent=3, prior=Dirichlet(a=0.3))
    fit = ps.fit(page, MeanField(), cells, epochs=60, batch_size=50, progress=False)
    cosine = torch.nn.functional.cosine_similarity(truth.decoder.B[:, None], fit.model.decoder.B[None], dim=-1)
    best = cosine.argmax(1)
    assert sorted(best.tolist()) == [0, 1, 2]
    assert (cosine.max(1).values > 0.98).all()
    error = fit.proportions(cells).to_numpy()[:, best] - z.numpy()
    assert np.abs(error).mean() < 0.05
