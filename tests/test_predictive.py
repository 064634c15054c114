"""Posterior predictive checks: they reject a model that cannot produce the data, and accept a true model."""

import numpy as np
import pytest
import torch

import pyroscvi as ps
from pyroscvi.calibration import predictive_check
from pyroscvi.calibration.predictive import Check, Replicated, statistics
from pyroscvi.data.cells import Cells
from pyroscvi.models import PPCA
from pyroscvi.parts import NB, LatentSize, Linear, Poisson


@pytest.fixture(scope="module")
def overdispersed():
    """Eighty cells without structure, whose counts vary far more than Poisson's."""
    r = np.random.default_rng(0)
    rate = r.gamma(0.5, 1 / 0.5, (80, 15)) * r.uniform(1, 12, 15)
    return Cells(torch.as_tensor(r.poisson(rate), dtype=torch.float32))


def fitted(likelihood, cells):
    model = ps.create("scvi", latent=1, likelihood=likelihood, size=LatentSize(), decoder=Linear())
    options = {"epochs": 120, "lr": 1e-2, "batch_size": 40, "progress": False}
    return ps.fit(model, ps.create("full_covariance"), cells, **options)


def test_statistics_by_hand():
    x = np.array([[0.0, 2.0, 4.0], [0.0, 0.0, 2.0], [3.0, 1.0, 0.0], [3.0, 1.0, 0.0]])
    result = {name: f(x) for name, f in statistics(x).items()}
    np.testing.assert_allclose(result["zeros per gene"], [0.5, 0.25, 0.5])
    np.testing.assert_allclose(result["zeros per cell"], [1 / 3, 2 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(result["mean of a gene"], [1.5, 1, 1.5])
    np.testing.assert_allclose(result["variance of a gene"], [2.25, 0.5, 2.75])
    np.testing.assert_allclose(result["library size"], [6, 2, 4, 4])
    np.testing.assert_allclose(result["maximum of a gene"], [3, 2, 4])
    expected = np.corrcoef(np.log1p(x).T)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(result["correlation of two genes"], expected)
    constant = statistics(x)["correlation of two genes"](np.ones((4, 3)))
    np.testing.assert_array_equal(constant, 0)


def test_p_is_the_share_of_data_sets_that_are_as_extreme():
    replicates = np.array([[0.0], [1.0], [-1.0], [2.0]])
    assert Replicated(np.array([10.0]), replicates).p == pytest.approx(1 / 5)
    assert Replicated(np.array([0.4]), replicates).p == 1.0
    assert Replicated(np.array([3.0]), np.full((4, 1), 3.0)).p == 1.0  # a constant statistic


def test_p_is_uniform_where_data_and_replicates_are_alike():
    r = np.random.default_rng(0)
    p = [Replicated(x[0], x[1:]).p for x in r.normal(size=(2000, 20, 5))]
    counts = np.bincount((np.array(p) * 20).round().astype(int), minlength=21)[1:]
    assert counts.min() > 60
    assert counts.max() < 145  # 100 are expected, with a standard deviation of 10


def test_poisson_cannot_make_these_zeros_and_its_own_data_pass(overdispersed):
    result = predictive_check(fitted(Poisson(), overdispersed), overdispersed, 49, corrected=True)
    assert len(result.simulated) == 3
    for statistic in ("zeros per gene", "variance of a gene"):
        assert result.table["p"][statistic] == pytest.approx(1 / 50)
        assert result.table["median"][statistic] > 0.05
    table = result.table
    assert table["replicates"]["variance of a gene"] < table["data"]["variance of a gene"]
    assert table["replicates"]["zeros per gene"] < table["data"]["zeros per gene"]


def test_negative_binomial_makes_them(overdispersed):
    result = predictive_check(fitted(NB(), overdispersed), overdispersed, 49, 0, corrected=True)
    assert result.table["p"]["zeros per gene"] > 0.02
    assert result.table["p"]["variance of a gene"] > 0.02
    assert result.table["median"].isna().all()


def test_every_kind_of_page_can_be_checked(cells):
    """Labels that are scored are simulated with the counts; densities of log counts give no negative ones."""
    for page in (ps.create("annotated", latent=2), PPCA(latent=2)):
        fit = ps.fit(page, ps.create("spatial_gnn"), cells, epochs=1, progress=False, early_stopping=False)
        result = predictive_check(fit, cells, 4, 1, most=25)
        assert result.data["library size"].of_data.shape == (25,)
        assert result.data["library size"].of_replicates.shape == (4, 25)
        assert result.data["correlation of two genes"].of_data.shape == (66,)
        assert all(np.isfinite(one.of_replicates).all() for one in result.simulated[0].values())
        assert (result.simulated[0]["mean of a gene"].of_data >= 0).all()


def test_checks_repeat_and_leave_global_generators_untouched(cells):
    fit = ps.fit(PPCA(latent=2), ps.create("mean_field"), cells, epochs=1, progress=False, early_stopping=False)
    before = torch.get_rng_state()
    one, two = (predictive_check(fit, cells, 4, 1, seed=5) for _ in range(2))
    assert one.table.equals(two.table)
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="two replicates"):
        predictive_check(fit, cells, 1)


def test_a_check_is_printed_and_drawn():
    r = np.random.default_rng(0)
    x = r.poisson(3, (20, 30, 6)).astype(float)
    of = statistics(x[0])
    one = {name: Replicated(f(x[0]), np.stack([f(other) for other in x[1:]])) for name, f in of.items()}
    result = Check(one, (one,))
    assert "19 replicates, compared with 1 data sets" in str(result)
    assert repr(result).startswith("Check(zeros per gene: p=")
    figure = result.plot()
    assert len(figure.axes) == 16  # seven statistics and the curve, of the data and of simulated ones
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[0] == f"zeros per gene   p = {one['zeros per gene'].p:.2g}"
    (single,) = Check(one, ()).plot("Library size").axes
    np.testing.assert_allclose(single.lines[1].get_xdata(), one["library size"].of_data)
    np.testing.assert_allclose(single.lines[1].get_ydata(), one["library size"].of_replicates.mean(0))
    with pytest.raises(ValueError, match="no statistic 'zeros'"):
        result.plot("zeros")
