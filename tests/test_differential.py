"""Differential expression: units of cells, priors over genes, and what changes between groups."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import run
from fits import quick
from scipy import stats

from pyroscvi.analysis.shrinkage import effects, expected_false_discoveries, moderated
from pyroscvi.analysis.unit_rates import UnitSums, unit_sums
from pyroscvi.cli import main
from pyroscvi.data.cells import Cells
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB


@pytest.fixture(scope="module")
def donors():
    """240 cells of six donors; in the last three, two genes are four times as frequent, and four a quarter."""
    generator = torch.Generator().manual_seed(0)
    donor = torch.arange(240) % 6
    rate = (
        torch.tensor([5.0] * 2 + [10.0] * 4 + [5.0] * 24)
        * torch.exp(0.1 * torch.randn(6, 30, generator=generator))[donor]
    )
    rate[donor >= 3, :2] *= 4
    rate[donor >= 3, 2:6] /= 4
    categories = {"batch": torch.arange(240) // 6 % 2, "donor": donor, "treated": (donor >= 3).long()}
    return Cells(torch.poisson(rate, generator=generator), categories, names=np.arange(240).astype(str))


@pytest.fixture(scope="module")
def fitted(donors):
    return quick(SCVI(latent=2, likelihood=NB()), MeanField(), donors, epochs=30, batch_size=120, lr=2e-2)


def table_of(fitted, cells, **options):
    usual = {"groupby": "treated", "groups": "1", "reference": "0", "progress": False}
    return fitted.differential(cells, **{**usual, **options})


def test_changed_genes_come_first_and_their_intervals_hold_the_truth(fitted, donors):
    table = table_of(fitted, donors, donor="donor")
    assert set(table["gene"][table["changed"]]) == set("012345")
    assert table["changed"].is_monotonic_decreasing
    assert table["p_change"].is_monotonic_decreasing
    assert (table["donors"] == 6).all()
    truth = table["gene"].map(dict.fromkeys("01", 2.0) | dict.fromkeys("2345", -2.0)).fillna(0.0)
    assert ((table["low"] <= truth) & (truth <= table["high"])).mean() > 0.8
    assert table["rate_group"].sum() == pytest.approx(10_000, rel=0.02)


def test_a_gene_that_is_more_probably_unchanged_is_never_called(fitted, donors):
    table = table_of(fitted, donors, donor="donor", fdr=0.9)
    assert (table["expected_fdr"] <= 0.9).all()
    assert (table["changed"] == (table["p_change"] > 0.5)).all()


def test_copies_of_the_same_cells_tell_nothing_new_about_donors(fitted, donors):
    """Three copies of each cell shrink the error of a test of cells by the root of three, and not that of donors."""
    copies = donors.subset(torch.arange(240).repeat(3))

    def error(cells, donor):
        return table_of(fitted, cells, donor=donor)["standard_error"].median()

    assert error(copies, None) < 0.65 * error(donors, None)
    assert error(copies, "donor") > 0.75 * error(donors, "donor")


def test_a_donor_in_both_groups_is_compared_with_itself(fitted, donors):
    half = np.where(np.arange(240) // 6 % 4 < 2, "early", "late")
    table = table_of(fitted, donors, groupby=half, groups=None, reference="early", donor="donor")
    assert (table["donors"] == 6).all()
    assert set(table["group"]) == {"late"}
    assert table["changed"].sum() == 0


def test_each_group_against_the_rest_within_levels(fitted, donors):
    table = table_of(fitted, donors, groups=None, reference="rest", within="batch")
    counts = table.groupby(["within", "group", "reference"]).size()
    assert list(counts.index) == [(b, g, "rest") for b in "01" for g in "01"]
    assert (counts == 30).all()


def test_batches_are_averaged_out_unless_they_lie_in_one_group_each(fitted, donors):
    with pytest.warns(UserWarning, match="no batch has cells of two groups"):
        table = table_of(fitted, donors, groupby="batch")
    with pytest.warns(UserWarning, match="each cell keeps its own batch$"):
        table_of(fitted, donors, groupby="batch", donor="donor")
    assert set(table["group"]) == {"1"}
    kept = table_of(fitted, donors, average=None)
    averaged = table_of(fitted, donors)
    assert not np.allclose(kept["estimate"].sort_index(), averaged["estimate"].sort_index(), rtol=1e-6)


def test_sums_of_units_do_not_depend_on_minibatches_and_add_up(fitted, donors):
    cells, unit = fitted.read(donors), np.arange(240) % 6
    how = {"samples": 30, "corrected": False, "seed": 0, "progress": False}
    small, large = (unit_sums(fitted, cells, unit, batch_size=size, **how) for size in (50, 240))
    np.testing.assert_allclose(small.share.mean(0), large.share.mean(0), rtol=0.05)
    merged = large.merged(np.array([0, 0, 0, 1, 1, -1]))
    np.testing.assert_allclose(merged.cells, [120, 80])
    np.testing.assert_allclose(merged.seen[0], large.seen[:3].sum(0))


def test_counts_decide_where_there_are_some_and_the_decoder_where_there_are_none():
    share, expected = np.array([[[0.6, 0.4], [0.2, 0.8]]]), np.array([[100.0, 1e-9], [100.0, 1e-9]])
    sums = UnitSums(np.ones(2), share, share[0] ** 2, np.array([[300.0, 0.0], [30.0, 0.0]]), expected)
    log_rate, variance = sums.log_rates()
    ratio = log_rate[0] - log_rate[1]
    assert ratio[0] == pytest.approx(np.log(3 * 300.5 / 30.5))
    assert ratio[1] == pytest.approx(np.log(0.4 / 0.8))
    assert (variance[:, 1] > 50 * variance[:, 0]).all()
    assert sums.departures()[0] == pytest.approx(((200**2 - 100) + (70**2 - 100)) / 2e4)


def test_moderated_variances_find_the_prior_that_made_them():
    rng = np.random.default_rng(0)
    true = 2.0 * 10 / rng.chisquare(10, 5000)
    variance, df = moderated(true * rng.chisquare(4, 5000) / 4, 4)
    assert df == pytest.approx(14, rel=0.15)
    assert np.corrcoef(np.log(variance), np.log(true))[0, 1] > 0.5


def test_effects_are_calibrated_for_genes_drawn_from_a_prior():
    rng = np.random.default_rng(0)
    true = np.where(rng.uniform(size=4000) < 0.3, rng.normal(0, 1, 4000), 0.0)
    error = rng.uniform(0.1, 0.5, 4000)
    posterior = effects(rng.normal(true, error), error, 1e6)
    low, high, p = posterior.quantile(0.05), posterior.quantile(0.95), posterior.beyond(0.25)
    assert 0.88 < ((low <= true) & (true <= high)).mean() < 0.99
    called = expected_false_discoveries(p) <= 0.1
    assert called.sum() > 300
    assert (np.abs(true[called]) <= 0.25).mean() < 0.13
    assert np.abs(p - (np.abs(true) > 0.25)).mean() < 0.2
    assert np.corrcoef(posterior.mean(), true)[0, 1] > 0.9


def test_intervals_hold_a_shift_that_all_unchanged_genes_share():
    rng = np.random.default_rng(0)
    true = np.where(rng.uniform(size=500) < 0.1, 1.5, -0.2)
    posterior = effects(rng.normal(true, 0.3), np.full(500, 0.3), 1e6, least=0.06)
    low, high = posterior.quantile(0.05), posterior.quantile(0.95)
    assert ((low <= true) & (true <= high)).mean() > 0.88


def test_few_degrees_of_freedom_make_evidence_weaker():
    estimate, error = np.tile([1.0, -1.0], 25), np.full(50, 0.3)
    few, many = (effects(estimate, error, df).beyond(0.25) for df in (3, 1e6))
    assert (few <= many).all()
    assert stats.t.sf(1 / 0.3, 3) > stats.norm.sf(1 / 0.3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"groupby": "sex"}, KeyError, "there is no column or field 'sex'; there are 'batch', 'donor', 'treated'"),
        ({"groups": "2"}, ValueError, "no group '2'"),
        ({"groupby": ["a"]}, ValueError, "1 values for 240 cells"),
        ({"donor": "treated"}, ValueError, "one donor in each group"),
        ({"delta": -1.0}, ValueError, "delta must not be negative"),
    ],
)
def test_errors_say_what_is_wrong(options, error, message, fitted, donors):
    with pytest.raises(error, match=message):
        table_of(fitted, donors, **options)


def test_the_command_writes_the_table_and_a_picture(nb, data, tmp_path, capsys):
    out, picture = tmp_path / "de.csv", tmp_path / "de.png"
    run("de", nb, data, "--groups", "cell_type", "--out", out, "--picture", picture, "--top", 3)
    printed = capsys.readouterr().out
    assert "type0 against rest: " in printed
    table = pd.read_csv(out)
    assert len(table) == 3 * 12
    assert picture.read_bytes()[:4] == b"\x89PNG"
    run("de", nb, data, "--groups", "cell_type", "--group", "type1", "--reference", "type0", "--json", "--quiet")
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 12
    assert rows[0]["group"] == "type1"
    assert main(["de", str(nb), str(data), "--groups", "cell_type", "--out", str(picture)]) == 1
    assert "--out writes .csv files: a picture is written by --picture" in capsys.readouterr().err
    assert main(["de", str(nb), str(data), "--groups", "cell_tipe"]) == 1
    assert "did you mean 'cell_type'?" in capsys.readouterr().err
