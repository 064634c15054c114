"""Values that are not counts: reading them, their likelihood, and what they are not compared with."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import quick, untrained
from scipy import sparse
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.comparison.question import question, refuse_unequal
from pyroscvi.data import Cells, Fields, simulated
from pyroscvi.distributions import NormalValues
from pyroscvi.evidence.table import estimand
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import PPCA, SCVI, Mixture, Topics
from pyroscvi.parts import NB, Linear, Normal, VampPrior


@pytest.fixture
def logs():
    """Simulated cells with scaled log counts in a layer; half of these values are negative."""
    adata = simulated(cells=60, genes=8, seed=0)
    values = np.log1p(adata.X.toarray())
    adata.layers["scaled"] = values - values.mean(0)
    return adata


def test_log_prob_is_that_of_independent_gaussians():
    loc, log_scale, x = torch.randn(5, 3), torch.randn(3), torch.randn(5, 3)
    fn = NormalValues(loc, log_scale)
    peer = torch.distributions.Normal(loc, log_scale.exp())
    assert_close(fn.log_prob(x), peer.log_prob(x).sum(-1))
    assert_close(fn.among(torch.tensor([True, False, True])).log_prob(x), peer.log_prob(x)[:, [0, 2]].sum(-1))
    assert_close(fn.expand((4000, 5)).sample().var(0), fn.variance, rtol=0.2, atol=0)


def test_values_are_read_as_they_are(logs):
    cells = Fields(values="scaled", batch="batch").read(logs)
    assert_close(cells.x, torch.as_tensor(logs.layers["scaled"]))
    assert cells.real
    assert_close(cells.dims.mean, cells.x.mean(0))
    assert cells.fields.read(logs).real
    logs.X = sparse.csr_matrix(logs.layers["scaled"])
    assert_close(Fields(values="X").read([logs, logs]).x, torch.cat([cells.x, cells.x]))


def test_values_are_checked(logs):
    logs.layers["scaled"][3, 2] = np.nan
    with pytest.raises(ValueError, match=r"layer 'scaled' must hold numbers.*1 of 480.*nan, of gene 'gene2' in cell"):
        Fields(values="scaled").read(logs)
    with pytest.raises(ValueError, match="name counts or values, not both"):
        Fields(counts="counts", values="scaled")


def test_models_of_counts_refuse_values_in_words(logs):
    cells = Fields(values="scaled").read(logs)
    for page in (SCVI(latent=2, likelihood=NB()), PPCA(latent=2)):
        with pytest.raises(ValueError, match=r"values that are not counts.*explains counts.*likelihood=Normal\(\)"):
            quick(page, MeanField(), cells)
    with pytest.raises(ValueError, match=r"profiles are shares of counts.*decoder=Linear\(\)"):
        quick(Topics(latent=2, likelihood=Normal()), MeanField(), cells)


@pytest.mark.parametrize("name", ["latent_tree", "mixture", "topics"])
def test_pages_that_start_at_clusters_fit_values(name, cells):
    declared = ps.create(name, likelihood=Normal())
    if name == "topics":
        declared = replace(declared, decoder=Linear())
    values = replace(cells, counts=cells.counts - cells.counts.mean(0), real=True, graph=None)
    fit = quick(declared, MeanField(), values, epochs=1)
    assert np.isfinite(ps.log_evidence(fit, values.subset(torch.arange(4)), particles=5, progress=False)).all()


def test_the_estimand_of_values_is_a_density_and_is_not_compared_with_counts(logs):
    values, counts = Fields(values="scaled").read(logs), Fields(counts="counts").read(logs)
    model = SCVI(latent=2, likelihood=Normal())
    pair, other = untrained(model, MeanField(), values), untrained(SCVI(latent=2), MeanField(), counts)
    assert estimand(pair[0], values) == "p(values)"
    of_values = question(pair, values)
    assert of_values.measures == {"x": "lebesgue"}
    with pytest.raises(ValueError, match="'a' gives a density of values that are not counts, and 'b' a probability"):
        refuse_unequal({"a": of_values, "b": question(other, counts)})


def test_evidence_of_a_linear_page_is_that_of_a_gaussian(logs):
    """With a linear decoder, a standard normal prior and Gaussian values, p(values) is a Gaussian."""
    cells = replace(Fields(values="scaled").read(logs), dtype=torch.float64)
    model, guide = untrained(SCVI(latent=2, decoder=Linear(), likelihood=Normal()), FullCovariance(), cells)
    pair = model.double(), guide.double()
    head = model.decoder.heads["rho"]
    covariance = head.weight @ head.weight.T + torch.diag((2 * model.likelihood.dispersion.log_theta).exp())
    exact = torch.distributions.MultivariateNormal(model.likelihood.m + head.bias, covariance).log_prob(cells.x)
    evidence = ps.log_evidence(pair, cells, particles=2000, progress=False)
    np.testing.assert_allclose(evidence, exact.detach(), atol=0.1)


def test_a_mixture_finds_the_means_of_values_that_it_simulated():
    torch.manual_seed(0)
    kinds = torch.tensor([[-2.0, 0.0, 1.0, 3.0], [2.0, 0.5, -1.0, 3.0]])
    k = torch.arange(200) % 2
    cells = Cells(kinds[k] + 0.3 * torch.randn(200, 4), real=True)
    fit = ps.fit(Mixture(kinds=2, likelihood=Normal()), MeanField(), cells, epochs=20, batch_size=100, progress=False)
    means = fit.model.likelihood.m + fit.model.decoder(torch.eye(2), torch.zeros(2, 0))["rho"]
    assert_close(means[means[:, 0].argsort()], kinds, rtol=0, atol=0.15)
    p = fit.probabilities(cells, "k").to_numpy()
    assert (p.argmax(1) == p[0].argmax() * (k == 0) + p[1].argmax() * (k == 1)).all()


def test_a_saved_fit_of_values_is_the_same_and_generates(logs, tmp_path):
    cells = Fields(values="scaled").read(logs)
    fit = quick(SCVI(latent=2, prior=VampPrior(components=3), likelihood=Normal()), MeanField(), cells)
    fit.save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit")
    np.testing.assert_array_equal(again.denoise(logs), fit.denoise(logs))
    assert again.generate(n=5).shape == (5, 8)
    np.testing.assert_array_equal(
        ps.log_evidence(again, cells, particles=3, progress=False),
        ps.log_evidence(fit, cells, particles=3, progress=False),
    )
