"""Corrected draws: analyses with draws of the posterior instead of the guide's."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import pyroscvi as ps
from pyroscvi.analysis.corrected import resampled
from pyroscvi.evidence.reader import Reader
from pyroscvi.models import PPCA
from pyroscvi.parts import NB, LatentSize, RandomDispersion
from pyroscvi.report.inference_data import to_arviz


@pytest.fixture
def ppca(cells):
    """A PPCA whose guide ignores the cells: for each it returns a Gaussian about zero, as wide as the prior."""
    fit = ps.fit(PPCA(latent=2), ps.create("full_covariance"), cells, epochs=1, progress=False, early_stopping=False)
    with torch.no_grad():
        fit.model.W.copy_(0.3 * torch.randn(12, 2))
        fit.model.log_sigma.fill_(-1.0)
        for parameter in fit.guide.heads.parameters():
            parameter.zero_()
    return fit


def test_latents_are_those_of_the_exact_posterior(ppca, cells):
    with torch.no_grad():
        truth = ppca.model.posterior(cells.x)
        sd = truth.variance.sqrt()
    mean = torch.as_tensor(ppca.latent(cells, corrected=True))
    assert ((mean - truth.mean) / sd).abs().max() < 0.2
    assert ((torch.as_tensor(ppca.latent(cells)) - truth.mean) / sd).abs().max() > 1
    draws = torch.as_tensor(ppca.latent(cells, 200, corrected=True))
    assert draws.shape == (200, 60, 2)
    assert draws.dtype == torch.float32
    whitened = (draws - truth.mean) / sd
    assert whitened.mean().abs() < 0.02
    assert whitened.std().item() == pytest.approx(1, abs=0.02)


def test_description_is_that_of_the_exact_posterior(ppca, cells):
    description = ppca.describe(cells, corrected=True)
    truth = ppca.model.posterior(cells.x)
    torch.testing.assert_close(description.covariance.mean(0), truth.covariance_matrix[0].detach(), rtol=0.1, atol=0.01)
    torch.testing.assert_close(description.log_variance.exp().mean(0), truth.variance[0].detach(), rtol=0.1, atol=0)
    prior = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    kl = torch.distributions.kl_divergence(dist.MultivariateNormal(truth.loc, truth.covariance_matrix), prior)
    assert list(description.kl) == ["z"]
    assert (description.kl["z"] - kl).abs().max() < 0.5  # of a mean over a hundred draws
    assert (description.kl["z"] - kl).mean().abs() < 0.05
    assert (description.sample - description.mean).abs().mean() > 0
    log_evidence = ppca.model.log_evidence(cells.x).mean()
    assert description.elbo.mean() == pytest.approx(log_evidence.item(), abs=0.5)


def test_rates_and_counts_follow_the_posterior(ppca, cells):
    """With a guide that ignores the data all denoised cells are equal; those of the posterior follow the cells."""
    truth = ppca.model.posterior(cells.x).mean @ ppca.model.W.T

    def agreement(result):
        return np.corrcoef((result - result.mean(0)).ravel(), truth.detach().numpy().ravel())[0, 1]

    with torch.no_grad():
        right, wrong = (agreement(np.log1p(ppca.denoise(cells, samples=20, corrected=c))) for c in (True, False))
        assert right > 0.8
        assert abs(wrong) < 0.3
        right, wrong = (
            agreement(np.log1p(ppca.generate(cells, samples=50, corrected=c)).mean(0)) for c in (True, False)
        )
        assert right > 0.8
        assert abs(wrong) < 0.3


def test_inference_data_say_whether_draws_are_corrected(ppca, cells):
    data = to_arviz(ppca, cells, 150, chains=1, corrected=True)
    assert "p(z | x)" in data["posterior"].attrs["draws"]
    np.testing.assert_allclose(data["posterior"]["z"].values[0], ppca.latent(cells, 150, corrected=True), rtol=1e-6)
    assert "not corrected" in to_arviz(ppca, cells, 4)["posterior"].attrs["draws"]


def test_every_latent_of_a_page_is_drawn_jointly(cells):
    """The size and the state of a cell, and the levels that weight them, come from one draw; conditions may be set."""
    fit = ps.fit(
        ps.create("gmvae", latent=2, kinds=2, size=LatentSize()), ps.create("mean_field"), cells, epochs=2,
        progress=False, early_stopping=False,
    )  # fmt: skip
    sizes = fit.latent(cells, 50, site="l", corrected=True)
    assert sizes.shape == (50, 60, 1)
    assert (sizes > 0).all()
    np.testing.assert_allclose(sizes.mean(0).mean(), fit.latent(cells, site="l", corrected=True).mean(), rtol=0.02)
    assert fit.generate(cells, samples=2, corrected=True, given={"batch": "b"}).shape == (2, 60, 12)
    shares = fit.denoise(cells, samples=2, library=1.0, corrected=True, given={"batch": "b"})
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert list(fit.describe(cells, corrected=True).kl) == ["l + z"]


def test_corrected_draws_repeat_and_leave_global_generators_untouched(ppca, cells):
    before = torch.get_rng_state()
    one, two = (ppca.generate(cells, samples=2, corrected=True, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert torch.equal(before, torch.get_rng_state())


def test_uneven_weights_give_a_warning(ppca, cells):
    with torch.no_grad():
        ppca.model.log_sigma.fill_(-6.0)  # a posterior a thousand times as narrow as the guide's
    from pyroscvi.evidence import StudentT

    with pytest.warns(UserWarning, match="60 of 60 cells are too uneven"):
        list(resampled(Reader(ppca, cells), 10, candidates=500, proposals=(StudentT(),)))


def test_a_shared_latent_is_not_corrected_but_held(cells):
    model = ps.create("scvi", latent=2, likelihood=NB(dispersion=RandomDispersion()))
    fit = ps.fit(model, ps.create("mean_field"), cells, epochs=1, progress=False, early_stopping=False)
    with pytest.raises(ValueError, match="theta is shared by all cells"):
        fit.latent(cells, corrected=True, site="theta")
    few = cells.subset(torch.arange(4))
    assert np.isfinite(fit.latent(few, corrected=True)).all()
    assert fit.describe(few, corrected=True).mean.isfinite().all()
    assert fit.generate(few, samples=2, corrected=True).shape == (2, 4, 12)
