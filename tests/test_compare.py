"""A comparison: verdicts, standard errors, and the columns of the table."""

from dataclasses import replace
from math import log

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from fits import untrained

import pyroscvi as ps
from pyroscvi.comparison.compare import compare
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.estimator import Importance
from pyroscvi.evidence.table import log_evidence
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, Linear, Poisson, ReadCell, SizeFactor

GUIDE = FullCovariance(encoder=ReadCell(widths=16))


@pytest.fixture
def pair(cells):
    return untrained(SCVI(latent=2, likelihood=NB()), GUIDE, cells)


# Verdicts and errors


def test_the_same_fit_twice_is_indistinguishable(pair, cells):
    table = compare({"a": [pair, pair], "b": [pair, pair]}, cells, 20).table
    assert list(table["verdict"]) == ["best", "indistinguishable"]
    assert (table[["difference", "standard_error", "interval"]] == 0).all().all()


@pytest.fixture(scope="module")
def overdispersed():
    """400 cells of 30 genes, with one latent dimension and theta = 1."""
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(400, 1, generator=generator)
    mu = 300 * torch.softmax(z @ torch.randn(1, 30, generator=generator), -1)
    gamma = torch.distributions.Gamma(torch.ones(400, 30), 1.0)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        counts = torch.poisson(mu * gamma.sample())
    return Cells(counts, {"batch": torch.arange(400) % 8}, size_factor=torch.full((400,), 300.0)).split(0.5, seed=0)


@pytest.fixture(scope="module")
def fits(overdispersed):
    train, _ = overdispersed

    def fitted(likelihood, seed=0):
        model = SCVI(latent=2, decoder=Linear(), likelihood=likelihood, size=SizeFactor())
        return ps.fit(model, GUIDE, train, epochs=80, lr=2e-2, batch_size=50, seed=seed, progress=False)

    return {
        "poisson": fitted(Poisson()),
        "poisson again": fitted(Poisson(), seed=1),
        "nb": fitted(NB()),
        "nb again": fitted(NB(), seed=1),
    }


@pytest.fixture(scope="module")
def two(fits):
    return {name: fits[name] for name in ("nb", "poisson")}


@pytest.fixture(scope="module")
def two_seeds(fits):
    return {name: [fits[name], fits[f"{name} again"]] for name in ("nb", "poisson")}


def test_the_model_that_generated_the_cells_is_best(two_seeds, overdispersed):
    table = compare(two_seeds, overdispersed[1], 100, estimator=Importance()).table
    assert table.index[0] == "nb"
    assert table.loc["poisson", "verdict"] == "told apart"
    assert table.loc["poisson", "difference"] < -1
    assert (table["evidence"].diff().dropna() <= 0).all()
    assert set(table["certificate"]) == {"uncertified"}
    assert set(table["kl_weight"]) == {1.0}
    assert table.loc["nb", "parameters"] == table.loc["poisson", "parameters"] + 30
    assert (table["seconds"] > 0).all()


def test_one_seed_tells_nothing_apart(two, two_seeds, overdispersed):
    held_out = overdispersed[1]
    table = compare(two, held_out, 50, estimator=Importance()).table
    assert table.loc["poisson", "difference"] < -10 * table.loc["poisson", "interval"]
    assert list(table["verdict"]) == ["best", "undecided"]
    half = {"nb": two_seeds["nb"], "poisson": two["poisson"]}
    assert list(compare(half, held_out, 50, estimator=Importance()).table["verdict"]) == ["best", "undecided"]
    both = compare(two_seeds, held_out, 50, estimator=Importance()).table
    assert list(both["verdict"]) == ["best", "told apart"]
    assert list(both["seeds"]) == [2, 2]


@pytest.mark.parametrize("unfinished", ["nb", "poisson"])
def test_verdicts_of_a_fit_that_has_not_converged_are_undecided(unfinished, two_seeds, overdispersed, monkeypatch):
    late = two_seeds[unfinished][1]
    monkeypatch.setattr(type(late), "converged", property(lambda fit: fit is not late))
    table = compare(two_seeds, overdispersed[1], 50, estimator=Importance()).table
    assert list(table["verdict"]) == ["best", "undecided"]
    assert not table.loc[unfinished, "converged"]


def test_differences_are_paired(two, overdispersed):
    result = compare(two, overdispersed[1], 50, estimator=Importance())
    table, cells = result.table, result.by_cell["log_evidence"]
    difference = np.subtract(cells["poisson"], cells["nb"])
    assert table.loc["poisson", "difference"] == pytest.approx(difference.mean())
    assert table.loc["poisson", "standard_error"] == pytest.approx(difference.std(ddof=1) / len(difference) ** 0.5)
    noise = np.sum(np.square(result.by_cell["monte_carlo_se"].to_numpy()))
    assert table.loc["poisson", "monte_carlo"] == pytest.approx(noise**0.5 / len(difference))
    assert table.loc["poisson", "evidence"] == pytest.approx(np.mean(cells["poisson"]))


def test_standard_errors_over_clusters(two, overdispersed):
    held_out = overdispersed[1]
    result = compare(two, held_out, 50, estimator=Importance(), by="batch")
    table, difference = result.table, result.by_cell["log_evidence"].eval("poisson - nb").to_numpy()
    sums = [(difference - difference.mean())[held_out.batch == level].sum() for level in range(8)]
    by_hand = np.sqrt(8 / 7 * np.sum(np.square(sums))) / len(difference)
    assert table.loc["poisson", "standard_error"] == pytest.approx(by_hand)
    # Copies of a cell have the information of one cell. An error over cells would be too small.
    copies = torch.arange(len(held_out)).repeat_interleave(4)
    copied = replace(held_out.subset(copies), categories={"batch": held_out.batch[copies], "copy": copies})
    model_by_copy = compare(two, copied, 50, estimator=Importance(), by="copy").table.loc["poisson", "standard_error"]
    plain = compare(two, held_out, 50, estimator=Importance()).table.loc["poisson", "standard_error"]
    assert model_by_copy == pytest.approx(plain, rel=0.1)
    assert compare(two, copied, 50, estimator=Importance()).table.loc["poisson", "standard_error"] < 0.6 * plain


def test_the_evidence_is_a_mean_over_seeds(fits, two, overdispersed):
    held_out, n = overdispersed[1], len(overdispersed[1])
    how = {"particles": 50, "estimator": Importance()}
    result = compare({"nb": [fits["nb"], fits["nb again"]], "poisson": fits["poisson"]}, held_out, **how)
    table = result.table
    by_seed = np.stack([log_evidence(fits[name], held_out, **how) for name in ("nb", "nb again")])
    poisson = log_evidence(fits["poisson"], held_out, **how)

    assert table.loc["nb", "evidence"] == pytest.approx(by_seed.mean())
    np.testing.assert_allclose(result.by_cell["log_evidence", "nb"], by_seed.mean(0))
    between = by_seed.mean(1).std(ddof=1)
    assert table.loc["nb", "seed_sd"] == pytest.approx(between)
    assert np.isnan(table.loc["poisson", "seed_sd"])
    difference = poisson - by_seed.mean(0)
    assert table.loc["poisson", "difference"] == pytest.approx(difference.mean())
    paired = difference.std(ddof=1) / n**0.5
    assert table.loc["poisson", "over_cells"] == pytest.approx(paired)
    assert table.loc["poisson", "standard_error"] == pytest.approx(np.hypot(paired, between / 2**0.5))
    assert {name: len(fit.seeds) for name, fit in result.fits.items()} == {"nb": 2, "poisson": 1}

    # The first seed is like any other; and the same one twice is a mean over one, with no error over seeds.
    turned = {"nb": [fits["nb again"], fits["nb"]], "poisson": fits["poisson"]}
    again = compare(turned, held_out, **how).table
    columns = ["evidence", "difference", "standard_error", "seed_sd", "weight", "information", "seconds"]
    pd.testing.assert_frame_equal(again[columns], table[columns])
    twice = compare({name: [fit, fit] for name, fit in two.items()}, held_out, **how).table
    columns = ["evidence", "difference", "standard_error", "weight", "monte_carlo"]
    one = compare(two, held_out, **how).table.assign(monte_carlo=lambda once: once["monte_carlo"] / 2**0.5)
    pd.testing.assert_frame_equal(twice[columns], one[columns])


def test_other_columns_are_means_over_seeds_and_weights_are_of_the_mixture(fits, overdispersed):
    from pyroscvi.comparison.stacking import stacking_weights
    from pyroscvi.comparison.usage import usage
    from pyroscvi.evidence.reader import Reader
    from pyroscvi.evidence.table import evidences

    held_out = overdispersed[1]
    seeds = ("nb", "nb again")
    several = [fits[name] for name in seeds]
    how = {"particles": 30, "estimator": Importance(), "dtype": torch.float64}
    result = compare({"nb": several, "poisson": fits["poisson"]}, held_out, **how)
    table = result.table
    readers = (Reader(fits[name], held_out) for name in seeds)
    tables = [evidences(reader, 30, estimator=Importance(), progress=False).table for reader in readers]
    noise = np.sqrt(sum(one["monte_carlo_se"] ** 2 for one in tables)) / 2
    np.testing.assert_allclose(result.by_cell["monte_carlo_se", "nb"], noise)
    assert table.loc["nb", "seconds"] == pytest.approx(np.mean([fits[name].record["seconds"] for name in seeds]))
    used = [usage(fits[name], held_out) for name in seeds]
    assert table.loc["nb", "information"] == pytest.approx(np.mean([one.information for one in used]))
    # Stacking weights use the mixture over seeds: the log of a mean, not the mean of logs.
    log_p = [one["log_evidence"].to_numpy() for one in tables]
    both = {"both": several, "one": fits["nb again"]}
    weights = compare(both, held_out, **how).table["weight"]
    by_hand = stacking_weights(np.column_stack([np.logaddexp(*log_p) - log(2), log_p[1]]))
    np.testing.assert_allclose(weights[["both", "one"]], by_hand, atol=1e-6)
    assert not np.allclose(by_hand, stacking_weights(np.column_stack([np.mean(log_p, 0), log_p[1]])), atol=0.05)


def test_every_seed_is_certified(fits, overdispersed):
    few, how = overdispersed[1].subset(torch.arange(10)), {"particles": 20, "estimator": Importance()}
    certificates = [ps.certify(fits[name], few, **how).words for name in ("nb", "nb again")]
    assert certificates[0] != certificates[1]
    for first, other in (("nb", "nb again"), ("nb again", "nb")):
        table = compare({"nb": [fits[first], fits[other]]}, few, **how, certify=True).table
        assert table.loc["nb", "certificate"] == max(certificates)  # "uncertified" comes last, and both gaps are alike


def test_the_fits_of_a_name_have_one_declaration(fits, overdispersed):
    with pytest.raises(ValueError, match="the fits of 'nb' differ by their seed alone"):
        compare({"nb": [fits["nb"], fits["poisson"]]}, overdispersed[1], 5)


def test_a_fit_with_another_seed_must_have_the_same_estimand(named):
    one, other = (ps.fit(SCVI(latent=2), MeanField(), c, epochs=1, progress=False)
                  for c in (named, replace(named, genes=named.genes[::-1])))  # fmt: skip
    with pytest.raises(ValueError, match="gene 'gene0' where the fit has 'gene11'"):
        compare({"a": [one, other]}, named, 5)


def test_each_fit_reads_an_anndata_through_its_own_fields(named):
    adata = AnnData(named.counts.numpy(), obs={"donor": np.array(["a", "b"])[named.batch]})
    adata.var_names, adata.obs_names = named.genes, named.names
    kwargs = {"epochs": 1, "progress": False}
    plain = ps.fit(SCVI(latent=2), MeanField(), ps.Fields().read(adata), **kwargs)
    corrected = ps.fit(SCVI(latent=2), MeanField(), ps.Fields(batch="donor").read(adata), **kwargs)
    result = compare({"plain": plain, "corrected": corrected}, adata[:20], 5)
    assert list(result.by_cell.index) == list(named.names[:20])
    again = log_evidence(corrected, corrected.fields.read(adata[:20]), 5)
    np.testing.assert_array_equal(result.by_cell["log_evidence", "corrected"], again)


def test_fits_are_read_from_disk(fits, overdispersed, tmp_path):
    fits["nb"].save(tmp_path / "nb")
    table = compare({"in memory": fits["nb"], "on disk": tmp_path / "nb"}, overdispersed[1], 20).table
    assert table["difference"].abs().max() == 0


# Other columns of the table


def test_the_table_has_errors_over_cells_and_over_clusters(two, overdispersed):
    held_out = overdispersed[1]
    result = compare(two, held_out, 50, estimator=Importance(), by="batch")
    table, difference = result.table, result.by_cell["log_evidence"].eval("poisson - nb").to_numpy()
    assert table.loc["poisson", "over_cells"] == pytest.approx(difference.std(ddof=1) / len(difference) ** 0.5)
    assert table.loc["poisson", "over_clusters"] == table.loc["poisson", "standard_error"]
    assert "Standard errors are over 8 clusters of cells (batch)" in " ".join(str(result).split())
    plain = compare(two, held_out, 50, estimator=Importance()).table
    assert plain["over_clusters"].isna().all()
    assert plain.loc["poisson", "standard_error"] == plain.loc["poisson", "over_cells"]


def test_weights_are_those_of_stacking(fits, overdispersed):
    from pyroscvi.comparison.stacking import stacking_weights

    result = compare(fits, overdispersed[1], 50, estimator=Importance())
    table, log_p = result.table, result.by_cell["log_evidence"].to_numpy()
    np.testing.assert_allclose(table["weight"], stacking_weights(log_p))
    assert table["weight"].sum() == pytest.approx(1)
    assert table.loc["poisson", "weight"] < 0.1


def test_active_units_components_and_information(named):
    from pyroscvi.comparison.usage import usage
    from pyroscvi.parts import Mixture

    model, guide = untrained(SCVI(latent=3, prior=Mixture(components=4)), GUIDE, named)
    with torch.no_grad():
        last = guide.heads["z"].out
        last.weight[2], last.bias[2] = 0.0, 0.5  # the third dimension is the same for every cell
        model.prior.w.copy_(torch.tensor([500.0, 0.0, 0.0, 0.0]))  # all cells are of the first component
    used = usage((model, guide), named)
    assert (used.active_units, used.components) == pytest.approx((2, 1), abs=1e-3)
    with torch.no_grad():
        model.prior.w.zero_()
        model.prior.m.zero_()
    assert usage((model, guide), named).components == pytest.approx(4, abs=1e-3)  # components that are all alike
    z = np.concatenate([guide.posteriors(part)["z"].mean.detach() for part in named.minibatches(25)])
    assert usage((model, guide), named).active_units == (z.var(0) > 0.01).sum()
    table = compare({"mixture": (model, guide), "normal": untrained(SCVI(latent=3), GUIDE, named)}, named, 5).table
    assert table.loc["mixture", "components"] == pytest.approx(4, abs=1e-3)
    assert np.isnan(table.loc["normal", "components"])


def test_the_table_of_cells(pair, named):
    table = compare({"a": pair, "b": pair}, named, 5).by_cell
    assert list(table.index) == list(named.names)
    np.testing.assert_allclose(table["cell", "library_size"], named.counts.sum(1))
    assert list(table["cell", "batch"][:3]) == ["a", "b", "a"]
    assert set(table["cell", "label"]) == {"B", "NK", "T", "?"}
    assert (table["log_evidence", "a"] == table["log_evidence", "b"]).all()


def test_settings_reach_the_reader_and_the_estimator(pair, named, monkeypatch):
    import pyroscvi.comparison.entry as module

    options, settings = [], []

    def evidences(reader, *arguments, **others):
        settings.append(others)
        return evidences_of(reader, *arguments, **others)

    def reader(fit, cells, **others):
        options.append(others)
        return reader_of(fit, cells, **others)

    evidences_of, reader_of, estimator = module.evidences, module.Reader, Importance()
    monkeypatch.setattr(module, "evidences", evidences)
    monkeypatch.setattr(module, "Reader", reader)
    compare({"a": pair}, named, 5, memory="10MB", batch_size=7, dtype=torch.float32, estimator=estimator)
    assert options == [{"memory": "10MB", "batch_size": 7, "dtype": torch.float32, "compile": "auto"}]
    assert settings[0]["estimator"] is estimator
