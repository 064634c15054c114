"""Calibration: exact posteriors pass, wrong ones fail, and every page of the zoo passes when corrected."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.stats import binom, chisquare
from torch import nn

import pyroscvi as ps
from pyroscvi.calibration import calibrate
from pyroscvi.calibration.ranks import Ranks, ranked
from pyroscvi.calibration.uniformity import band, below, holm, p_value
from pyroscvi.evidence.adaptive import Adaptive
from pyroscvi.evidence.coordinates import Coordinates
from pyroscvi.evidence.proposals import StudentT
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.refined import Refined
from pyroscvi.evidence.resampling import Pool, pools
from pyroscvi.evidence.simulated import simulate
from pyroscvi.evidence.streams import Streams
from pyroscvi.models import PPCA, Annotated
from pyroscvi.parts import MLP, NB, LatentSize, Mixture, RandomDispersion
from pyroscvi.parts.neighbours import ReadNeighbours
from pyroscvi.program import free_sites

SMALL = MLP(widths=(16,))
DISCRETE = ("domains", "mixture", "latent_tree")
PAGES = {name: ps.create(name, latent=2) for name in ps.list_models() if name not in DISCRETE} | {
    "domains": ps.create("domains", domains=2, kinds=3),
    "mixture": ps.create("mixture", kinds=3),
    "latent_tree": ps.create("latent_tree"),
    "annotated": ps.create("annotated", latent=2, decoder=SMALL),
    "gmvae": ps.create("gmvae", latent=2, kinds=3),
    "scvi, latent size": ps.create("scvi", latent=2, size=LatentSize()),
    "scvi, mixture": ps.create("scvi", latent=1, prior=Mixture(components=2), decoder=SMALL),
}
QUICK = StudentT(), Adaptive(rounds=4, draws=256), Adaptive(start=Refined())


class Given(nn.Module):
    """A guide with a given posterior of the cells, for a PPCA."""

    def __init__(self, model, posterior, cells):
        super().__init__()
        self.model, self.posterior, self.sites = model, posterior, free_sites(model, cells)

    def posteriors(self, cells):
        return {"z": self.posterior(self.model, cells)}


def exact(model, cells):
    q = model.posterior(cells.x)
    return dist.MultivariateNormal(q.loc, scale_tril=q.scale_tril)


def best_mean_field(model, cells):
    """The independent normals of least KL(q || p): right means, and the conditional spread of every coordinate."""
    q = model.posterior(cells.x)
    return dist.Normal(q.loc, q.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt().expand(q.loc.shape)).to_event(1)


def prior(model, cells):
    return dist.Normal(torch.zeros(len(cells), model.latent, dtype=cells.dtype), 1.0).to_event(1)


@pytest.fixture
def ppca(cells):
    """A PPCA whose latents are correlated in the posterior: both dimensions have nearly the same loadings."""
    model = PPCA(latent=2).sized(cells.dims).requires_grad_(False)
    w, aside = torch.linspace(0.4, 0.8, len(cells.genes)), 0.1 * torch.tensor([1.0, -1.0]).repeat(len(cells.genes) // 2)
    model.W.copy_(torch.stack([w + aside, w - aside], -1))
    return model


# The test for uniformity


@pytest.mark.parametrize(("simulations", "draws"), [(4, 3), (5, 2), (3, 5)])
def test_p_values_agree_with_enumeration_of_all_outcomes(simulations, draws):
    outcomes = np.array(list(product(range(draws + 1), repeat=simulations)))
    share = np.arange(1, draws + 1) / (draws + 1)
    counts = np.stack([below(outcome, draws) for outcome in outcomes])
    tails = np.minimum(binom.cdf(counts, simulations, share), binom.sf(counts - 1, simulations, share)).min(1)
    for i in range(0, len(outcomes), 7):
        expected = (tails <= tails[i] * (1 + 1e-9)).mean()
        assert p_value(outcomes[i], draws) == pytest.approx(expected, abs=1e-12)


def test_the_band_contains_the_stated_share_of_curves():
    least, greatest = band(200, 99, coverage=0.9)
    ranks = np.random.default_rng(0).integers(0, 100, (3000, 200))
    counts = np.stack([below(one, 99) for one in ranks])
    inside = ((counts >= least) & (counts <= greatest)).all(1).mean()
    assert inside == pytest.approx(0.9, abs=0.02)  # 3.6 standard errors


def test_extreme_ranks_have_tiny_p_values():
    assert p_value(np.zeros(500, dtype=int), 99) < 1e-200
    assert p_value(np.arange(500) % 100, 99) > 0.99


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03, 0.6])), [0.09, 0.04, 0.09, 0.6])


def test_ties_are_broken_at_random():
    """A truth that ties with all draws may have any rank; one that ties with none has its own."""
    n = 4000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0))
    ranks = ranked(torch.ones(n), torch.ones(9, n), uniform)
    assert chisquare(np.bincount(ranks.numpy(), minlength=10)).pvalue > 0.001
    assert (ranked(torch.full((n,), 0.5), torch.arange(9.0)[:, None].expand(9, n), uniform) == 1).all()
    assert ranked(torch.ones(1), torch.ones(9, 1), torch.ones(1)) == 9


def test_coverage_of_uniform_ranks_is_the_nominal_one():
    ranks = Ranks(pd.DataFrame({"z": np.arange(100)}))
    assert ranks.coverage(0.9)["z"] == 0.9
    assert ranks.coverage(0.5)["z"] == 0.5
    assert ranks.passes


# Simulated cells


def test_simulated_cells_keep_their_sizes_and_their_latents_are_the_truth_of_the_targets(cells):
    model = PAGES["gmvae"].sized(cells.dims)
    guide = ps.create("mean_field").sized(model, cells)
    reader = Reader((model, guide), cells)
    made = simulate(reader, seed=3)
    assert made.observed["x"].dtype == torch.float64
    assert made.latents["z"].shape == (60, 2)
    assert made.levels(guide.sites)["k"].shape == (60,)
    torch.testing.assert_close(made.cells.library, cells.library.double())
    again = simulate(reader, seed=3)
    assert torch.equal(made.observed["x"], again.observed["x"])
    assert not torch.equal(made.latents["z"], simulate(reader, seed=4).latents["z"])
    target = next(made.shown_to(reader).targets())
    torch.testing.assert_close(target.truth, made.unconstrained(guide.sites))
    assert torch.equal(
        simulate(Reader((model, guide), cells, dtype=torch.float32), 3).observed["x"], made.observed["x"]
    )


def test_a_simulation_draws_every_site_of_a_cell_and_observes_none(cells):
    page = Annotated(latent=2, likelihood=NB(dispersion=RandomDispersion()), size=LatentSize())
    model = page.sized(cells.dims)
    guide = ps.create("mean_field").sized(model, cells)
    reader = Reader((model, guide), cells)
    state = torch.get_rng_state()
    drawn = simulate(reader, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert set(drawn.observed) == {"x", "label"}
    assert not torch.equal(drawn.observed["x"], reader.cells.x)
    own = {name: site for name, site in guide.sites.items() if site.local}
    assert set(guide.sites) - set(own) == {"theta"}  # of all cells: it is held, as parameters are
    assert set(drawn.latents) == {*own, "y"}  # y is enumerated
    u = drawn.unconstrained(own)
    assert u.shape == (60, sum(site.size for site in own.values()))
    for name, value in Coordinates(own, torch.float64).values(u).items():
        torch.testing.assert_close(value, drawn.latents[name])
    assert drawn.unconstrained({}).shape == (60, 0)


# Controls with known answers: the exact posterior, mean field on a correlated posterior, the prior


def test_exact_posterior_passes(ppca, cells):
    result = calibrate((ppca, Given(ppca, exact, cells)), cells, 500, corrected=False)
    assert result.passes, result
    assert result.corrected is None
    assert result.guide.coverage(0.9).between(0.86, 0.94).all()
    assert list(result.guide.values) == ["z[0]", "z[1]", "z[0] z[1]", "|z|²", "log p(x | z)"]


def test_mean_field_on_a_correlated_posterior_fails_and_is_corrected(ppca, cells):
    result = calibrate((ppca, Given(ppca, best_mean_field, cells)), cells, 500, candidates=2000)
    assert not result.guide.passes
    assert result.guide.table["p"]["z[0]"] < 1e-20
    assert result.guide.table["p"]["log p(x | z)"] < 1e-5
    assert result.guide.coverage(0.9)["z[0]"] < 0.75
    assert result.corrected.passes, result
    assert result.passes


def test_the_prior_as_guide_fails_only_in_the_likelihood_and_is_corrected(ppca, cells):
    result = calibrate((ppca, Given(ppca, prior, cells)), cells, 500, candidates=2000)
    assert result.guide.failures == ["log p(x | z)"]
    assert result.guide.table["p"]["log p(x | z)"] < 1e-100
    assert result.corrected.passes, result


@pytest.mark.parametrize("page", PAGES)
def test_every_page_passes_when_corrected(page, cells):
    fit = ps.fit(
        PAGES[page], ps.create("mean_field"), cells, epochs=15, batch_size=20, lr=1e-2, progress=False,
        early_stopping=False,
    )  # fmt: skip
    result = calibrate(fit, simulations=150, candidates=1000, proposals=QUICK)
    assert result.corrected.passes, result
    assert result.sufficient > 0.95
    expected = {"gmvae": "k", "mixture": "k", "annotated": "y", "scvi, mixture": "k", "scvi, latent size": "log l"}
    assert page not in expected or expected[page] in result.corrected.values
    assert any(name.startswith("log p(x") for name in result.corrected.values)


# Corrected draws


def test_pool_has_the_moments_of_the_posterior(ppca, cells):
    result = next(pools(Reader((ppca, Given(ppca, best_mean_field, cells)), cells), 4000))[1]
    truth = exact(ppca.double(), replace(cells, dtype=torch.float64))
    sd = truth.variance.sqrt()
    assert ((result.mean(result.u) - truth.mean).abs() / sd).max() < 0.2
    torch.testing.assert_close(result.covariance(), truth.covariance_matrix.expand(60, 2, 2), rtol=0.25, atol=0.02)
    drawn = result.resampled(Streams(0, torch.arange(60)), 400)
    assert drawn.shape == (400, 60, 2)
    apart = (drawn - truth.mean) / sd
    assert apart.mean().abs() < 0.02
    assert apart.std() == pytest.approx(1.0, abs=0.02)


def test_pools_do_not_depend_on_minibatches(ppca, cells):
    pair = ppca, Given(ppca, best_mean_field, cells)
    whole = next(pools(Reader(pair, cells), 500))[1]
    parts = [part for _, part in pools(Reader(pair, cells, batch_size=17), 500)]
    torch.testing.assert_close(torch.cat([part.log_w for part in parts], 1), whole.log_w, rtol=0, atol=1e-9)


def test_resampling_follows_the_weights():
    pool = Pool(
        torch.arange(3.0, dtype=torch.float64).reshape(3, 1, 1), torch.tensor([[0.1], [0.6], [0.3]]).double().log()
    )
    drawn = pool.resampled(Streams(0, torch.arange(1)), 5000)
    counts = np.bincount(drawn.long().flatten().numpy(), minlength=3)
    assert chisquare(counts, [500, 3000, 1500]).pvalue > 0.001
    assert pool.effective_sample_size == pytest.approx(1 / (0.01 + 0.36 + 0.09))


# A tissue


def test_cells_of_a_tissue_are_taken_once(cells):
    """A guide that reads neighbours gets each cell once; for other guides cells are repeated."""
    model = ps.create("scvi", latent=2, decoder=SMALL).sized(cells.dims).eval()
    for guide, n in {"spatial_gnn": 60, "mean_field": 90}.items():
        pair = model, ps.create(guide).sized(model, cells).eval()
        assert len(calibrate(pair, cells, 90, corrected=False).guide.values) == n


def test_a_simulated_cell_is_read_among_the_real_neighbours(cells):
    """One at a time: a simulated cell is not a neighbour of other cells."""
    double = cells.to(dtype=torch.float64)
    model = ps.create("scvi", latent=2, decoder=SMALL).sized(cells.dims).eval().double()
    guide = ps.create("spatial_gnn").sized(model, double).eval().double()
    reader = Reader((model, guide), cells)
    made = simulate(reader, 0)
    shown = made.shown_to(reader).guide
    read, real = (some.posteriors(double.take(torch.arange(60)))["z"] for some in (shown, guide))
    for i in (20, 33):
        counts = torch.cat([double.x[:i], made.observed["x"][i : i + 1], double.x[i + 1 :]])
        alone = guide.posteriors(replace(double, counts=counts))["z"]
        torch.testing.assert_close(read.mean[i], alone.mean[i])
        torch.testing.assert_close(read.covariance_matrix[i], alone.covariance_matrix[i])
        assert not torch.allclose(alone.mean[i], real.mean[i])


@pytest.mark.parametrize("hops", [1, 2])
def test_minibatches_of_a_tissue_do_not_change_ranks(cells, hops):
    stored = replace(cells, counts=csr_matrix(cells.x.numpy()))
    model = ps.create("scvi", latent=2, decoder=SMALL).sized(cells.dims).eval()
    pair = model, ps.create("spatial_gnn", encoder=ReadNeighbours(hops=hops)).sized(model, cells).eval()
    whole = calibrate(pair, cells, 60, corrected=False)
    for some in (cells, stored):
        parts = calibrate(pair, some, 60, corrected=False, batch_size=13)
        assert parts.guide.values.equals(whole.guide.values)


@pytest.mark.parametrize("guide", ["low_rank", "spatial_gnn"])
def test_every_guide_passes_when_corrected(guide, cells):
    fit = ps.fit(
        ps.create("scvi", latent=3), ps.create(guide), cells, epochs=15, batch_size=20, lr=1e-2, progress=False,
        early_stopping=False,
    )  # fmt: skip
    result = calibrate(fit, cells, 150, candidates=1000, proposals=QUICK)
    assert result.corrected.passes, result
    assert result.sufficient > 0.95


# Bad input


def test_bad_input_is_refused(ppca, cells):
    pair = ppca, Given(ppca, prior, cells)
    with pytest.raises(TypeError, match="give cells"):
        calibrate(pair)
    with pytest.raises(ValueError, match="at least"):
        calibrate(pair, cells, 0)
    with pytest.raises(ValueError, match="draws=0"):
        calibrate(pair, cells, draws=0)


def test_a_calibration_is_printed_and_drawn(ppca, cells):
    result = calibrate((ppca, Given(ppca, prior, cells)), cells, 80, candidates=500)
    text = str(result)
    assert "80 simulated cells, 99 draws of each" in text
    assert "the guide: fails in 1 of 5" in text
    assert "importance-corrected: passes" in text
    assert repr(result) == "Calibration(80 cells, 5 quantities: guide fails, corrected passes)"
    panels = [ax for ax in result.plot().axes if ax.get_title(loc="left")]
    assert [ax.get_title(loc="left") for ax in panels] == list(result.guide.values)
    weights = [ax._left_title.get_fontweight() for ax in panels]
    assert weights == ["normal"] * 4 + ["bold"]
    curve = panels[4].lines[1].get_ydata()
    expected = below(result.guide.values["log p(x | z)"].to_numpy(), 99) / 80 - np.arange(1, 100) / 100
    np.testing.assert_allclose(curve, expected)


def test_calibration_repeats_and_leaves_global_generators_untouched(ppca, cells):
    pair = ppca, Given(ppca, prior, cells)
    before = torch.get_rng_state()
    one, two = (calibrate(pair, cells, 40, candidates=200, seed=2) for _ in range(2))
    assert one.guide.values.equals(two.guide.values)
    assert one.corrected.values.equals(two.corrected.values)
    assert torch.equal(before, torch.get_rng_state())
    whole = calibrate(pair, cells, 40, candidates=200, seed=2, batch_size=7)
    assert whole.corrected.values.equals(one.corrected.values)  # minibatches do not matter
