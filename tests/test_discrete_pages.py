"""Pages without continuous latents: every latent is summed out, so that evidences and posteriors are exact."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from fits import quick, untrained
from pyro import poutine
from torch.nn.functional import one_hot
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.reader import Reader
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.inference.elbo import negative_elbo
from pyroscvi.inference.objectives import Balance
from pyroscvi.models import GMVAE, Mixture
from pyroscvi.parts import NB, Exponential, Poisson, UnitSize
from pyroscvi.parts.clusters import clustered_shares
from pyroscvi.report.inference_data import to_arviz


def by_hand(model, cells):
    """log p(x_n, k) [n, kinds], a kind at a time."""
    columns = []
    for k in range(model.kinds):
        code = one_hot(torch.full((len(cells),), k), model.kinds).to(cells.dtype)
        eta = model.decoder(code, model.condition(cells))
        counts = model.likelihood(model.size(cells), model.likelihood.dispersion(cells), **eta)
        columns.append(model.w.log_softmax(-1)[k] + counts.log_prob(cells.x))
    return torch.stack(columns, -1)


@pytest.fixture
def pair(cells):
    model, guide = untrained(Mixture(kinds=4), MeanField(), cells)
    with torch.no_grad():
        model.w.normal_()
    return model, guide


def test_the_elbo_of_a_mixture_is_its_log_evidence(pair, cells):
    log_p = by_hand(pair[0], cells).logsumexp(-1)
    assert_close(-negative_elbo(*pair, cells), log_p.sum())
    np.testing.assert_allclose(ps.log_evidence(pair, cells), log_p.detach().double(), rtol=1e-5)


def test_an_evidence_that_needs_no_integral_is_exact_and_so_is_its_certificate(pair, cells):
    table = ps.evidence.evidences(Reader(pair, cells), certify=True).table
    assert set(table["method"]) == set(table["certificate"]) == {"exact"}
    assert (table["monte_carlo_se"] == 0).all()
    assert ps.certify(pair, cells).words == "exact"


def test_a_guide_for_no_latents_has_no_parameters_and_reads_no_cell(pair):
    _, guide = pair
    assert list(guide.parameters()) == []
    assert guide.sites == {}


def test_probabilities_and_descriptions_are_bayes_rule(cells):
    fit = quick(Mixture(kinds=4), MeanField(), cells)
    expected = by_hand(fit.model, cells).softmax(-1).detach()
    assert_close(torch.as_tensor(fit.probabilities(cells, "k").to_numpy()).float(), expected, atol=1e-5, rtol=0)
    description = fit.describe(cells)
    assert_close(description.probabilities["k"], expected)
    assert_close(description.elbo, by_hand(fit.model, cells).logsumexp(-1))
    assert description.mean.shape == description.sample.shape == (60, 0)
    assert fit.describe(cells, corrected=True).covariance.shape == (60, 0, 0)
    with pytest.raises(KeyError, match="no site 'z'; it has none"):
        fit.latent(cells)


def test_balance_of_a_mixture_looks_at_the_counts(pair, cells):
    r = by_hand(pair[0], cells).softmax(-1).mean(0)
    assert_close(Balance()(*pair, cells)[0], np.log(4) - torch.special.entr(r).sum())


def test_one_kind_makes_genes_independent(cells):
    model, guide = untrained(Mixture(kinds=1, likelihood=Poisson(link=Exponential())), MeanField(), cells)
    eta = model.decoder(torch.ones(60, 1), model.condition(cells))["rho"]
    by_gene = dist.Poisson(cells.library * eta.exp()).log_prob(cells.x)
    assert_close(-negative_elbo(model, guide, cells), by_gene.sum(), rtol=1e-4, atol=0)


def test_gmvae_whose_kinds_have_no_spread_is_a_mixture(cells):
    wide, _ = untrained(GMVAE(latent=4, kinds=4), FullCovariance(), cells)
    narrow = Mixture(kinds=4).sized(cells.dims)
    with torch.no_grad():
        wide.m.copy_(torch.eye(4))
        narrow.load_state_dict({k: v for k, v in wide.state_dict().items() if k not in ("m", "raw_s")})
        for k in range(4):
            given = poutine.condition(wide, {"k": torch.full((60,), k), "z": wide.m[k].expand(60, 4)})
            x = poutine.trace(given).get_trace(cells).nodes["x"]["fn"]
            assert_close(x.log_prob(cells.x) + narrow.w.log_softmax(-1)[k], by_hand(narrow, cells)[:, k])


def test_counts_without_a_common_size_have_an_estimand_without_it(cells):
    model = Mixture(size=UnitSize(), likelihood=NB(link=Exponential())).sized(cells.dims)
    assert model.estimand == "p(x)"
    x = poutine.trace(model).get_trace(cells).nodes["x"]["fn"]
    twice = Cells(2 * cells.x, cells.categories, levels=cells.levels)
    again = poutine.trace(poutine.condition(model, {"k": torch.zeros(60).long()})).get_trace(twice).nodes["x"]["fn"]
    first = poutine.trace(poutine.condition(model, {"k": torch.zeros(60).long()})).get_trace(cells).nodes["x"]["fn"]
    assert x.batch_shape == (60,)
    assert_close(again.mean, first.mean)


def test_calibration_ranks_the_kind(pair, cells):
    ranks = ps.calibrate(pair, cells, 40, draws=20)
    assert list(ranks.guide.table.index) == ["log p(x)", "k"]
    assert ranks.corrected is not None


def test_arviz_gets_draws_of_counts_and_no_posterior(pair, cells):
    data = to_arviz(pair, cells, samples=4)
    assert "posterior" not in data
    assert data["posterior_predictive"]["x"].shape == (4, 1, 60, 12)


def test_loadings_of_a_mixture_have_a_column_for_every_kind(cells):
    table = quick(Mixture(kinds=3), MeanField(), cells).loadings()
    assert list(table.columns) == ["k0", "k1", "k2"]
    assert len(table) == 12


def test_a_mixture_recovers_the_kinds_of_cells_that_it_simulated():
    """Nine in ten of the pairs of cells are rightly together or apart, and kinds are as frequent as they were.

    The fit is as probable as the truth.
    """
    blank = Cells(torch.full((300, 20), 3.0))
    truth = Mixture(kinds=3).sized(blank.dims)
    with torch.no_grad():
        truth.w.copy_(torch.tensor([0.55, 0.3, 0.15]).log())
        truth.decoder.heads["rho"].weight.normal_()
        truth.likelihood.dispersion.log_theta.fill_(2.0)
        drawn = poutine.trace(poutine.uncondition(truth)).get_trace(blank)
    cells, k = Cells(drawn.nodes["x"]["value"]), drawn.nodes["k"]["value"]
    train, new = cells.subset(slice(0, 200)), cells.subset(slice(200, 300))
    fit = ps.fit(Mixture(kinds=3), MeanField(), train, epochs=80, batch_size=50, progress=False)
    best = torch.as_tensor(fit.probabilities(new, "k").to_numpy().argmax(1))
    together = lambda k: k[:, None] == k[None, :]  # noqa: E731
    assert (together(best) == together(k[200:])).float().mean() > 0.9
    assert_close(fit.model.w.softmax(-1).sort().values, torch.tensor([0.15, 0.3, 0.55]), rtol=0, atol=0.1)
    gap = ps.log_evidence((truth, MeanField().sized(truth, new)), new) - ps.log_evidence(fit, new)
    assert abs(gap.mean()) < 2


def test_kinds_start_at_clusters_of_cells_unless_they_come_from_another_fit(cells):
    first = quick(Mixture(kinds=3), MeanField(), cells, epochs=1, lr=1e-9)
    kind = first.probabilities(cells, "k").to_numpy().argmax(1)
    assert [len(set(kind[np.arange(60) % 3 == type_])) for type_ in range(3)] == [1, 1, 1]
    assert len(set(kind)) == 3
    moved = first.model
    with torch.no_grad():
        moved.decoder.heads["rho"].weight.zero_()
    assert quick(moved, first.guide, cells, epochs=1, lr=1e-9).model.decoder.heads["rho"].weight.abs().max() < 1e-6


def test_more_kinds_than_different_cells_start_at_random_cells():
    few = Cells(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    shares = clustered_shares(few, 5)
    assert shares.shape == (5, 2)
    assert (shares > 0).all()
    assert_close(shares.sum(-1), torch.ones(5))
