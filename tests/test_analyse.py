"""``analyse``: from cells to clusters, marker genes, a report, and a script that repeats it, without an option."""

import subprocess
import sys
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from command_line import run

import pyroscvi as ps
from pyroscvi.analysis.clusters import agreement, clusters, neighbours_of, stability
from pyroscvi.data import simulated
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, LatentSize, Linear, Mixture
from pyroscvi.workflow import choosing
from pyroscvi.workflow.choosing import Candidates, Clock, choose
from pyroscvi.workflow.inspection import inspect
from pyroscvi.workflow.page import _apart


def with_logs(adata: AnnData) -> AnnData:
    adata = adata.copy()
    adata.X = np.log1p(adata.X.toarray())
    return adata


def test_counts_are_found_wherever_they_are():
    adata = simulated(cells=30, genes=6, seed=0)
    del adata.layers["counts"]
    assert inspect(adata).fields["counts"] is None
    logs = with_logs(adata)
    with pytest.raises(ValueError, match="no counts: neither X, nor a layer, nor raw holds whole numbers only"):
        inspect(logs)
    logs.raw = adata
    inspection = inspect(logs)
    assert inspection.from_raw
    assert ps.Fields(**inspection.fields).read(inspection.adata).x.sum() == adata.X.sum()
    logs.layers["umi"] = adata.X
    assert inspect(logs).fields["counts"] == "umi"
    assert inspect(simulated(cells=30, genes=6)).fields["counts"] == "counts"


def test_columns_are_recognised_by_their_names_and_noted():
    adata = simulated(cells=60, genes=6, seed=0)
    adata.obs["stim"] = pd.Categorical(["ctrl", "stim"] * 30)
    inspection = inspect(adata)
    assert (inspection.fields["batch"], inspection.label, inspection.condition) == ("batch", "cell_type", "stim")
    assert "Batch: obs['batch'], 2 levels (by its name); the model corrects for it." in inspection.notes
    named = inspect(adata, batch="stim", label="batch")
    assert (named.fields["batch"], named.label) == ("stim", "batch")
    with pytest.raises(KeyError, match="obs has no column 'donors'"):
        inspect(adata, batch="donors")


def test_a_batch_within_a_condition_is_replaced_by_the_donor():
    adata = simulated(cells=60, genes=6, seed=0)
    del adata.obs["batch"]
    adata.obs["donor"] = [f"d{n % 3}" for n in range(60)]
    adata.obs["condition"] = ["a", "b"] * 30
    adata.obs["sample"] = adata.obs["donor"] + adata.obs["condition"]
    assert inspect(adata).fields["batch"] == "donor"
    inspection = inspect(adata, batch="sample")
    assert inspection.fields["batch"] == "sample"
    assert any(
        line.startswith("Attention: every level of 'sample' has one level of 'condition'") for line in inspection.notes
    )


def test_clusters_are_the_types_that_are_there():
    centres = np.repeat([[0.0, 0], [9, 0], [0, 9]], 40, axis=0)
    z = [centres + np.random.default_rng(seed).normal(size=centres.shape) for seed in (0, 1)]
    adata = AnnData(obsm={"z": z[0]})
    neighbours_of(adata, "z")
    clusters(adata, resolution=0.1)
    truth = np.repeat([0, 1, 2], 40)
    assert agreement(adata.obs["pyroscvi_cluster"], truth) == (1, 0)
    index, error = agreement(truth, np.roll(truth, 20))
    assert 0.2 < index < 0.4
    assert 0.01 < error < 0.1
    assert stability(z, resolution=0.1) == [1]


@pytest.fixture(scope="module")
def cells():
    return ps.Fields(counts="counts", batch="batch").read(simulated(cells=120, genes=20, seed=0))


def test_a_model_is_chosen_by_the_evidence(cells, monkeypatch):
    monkeypatch.setattr(choosing, "PARTICLES", 20)
    monkeypatch.setattr(choosing, "SEEDS", 1)
    choice = choose(cells, MeanField(), Clock(600), epochs=2, progress=False, compile=False)
    assert list(choice.comparisons) == ["likelihood", "dimensions and prior"]
    assert all((one.table["certificate"] != "uncertified").all() for one in choice.comparisons.values())
    first = choice.comparisons["likelihood"].table.index[0]
    assert choice.notes[0] == f"Likelihood: {first}, of nb; zinb; poisson, with one seed."
    last = choice.comparisons["dimensions and prior"].table.index[0]
    assert choice.fits[0].record["seed"] == 0
    names = "latent 10; latent 5; latent 20; latent 10, mixture prior"
    assert f"Dimensions and prior: {last}, of {names}, with one seed." in choice.notes
    assert choice.pace > 0


class Fitting:
    """Fits that take the given seconds of a clock that does not run by itself."""

    def __init__(self, seconds: dict[str, float], minutes: float):
        self.seconds, self.clock, self.names = seconds, Clock(60 * minutes), []
        self.now = self.clock.began

    def __call__(self, name: str, model: str, number: int) -> list[SimpleNamespace]:
        self.names.append(f"{name}{number}")
        self.now += self.seconds[name]
        return [SimpleNamespace(record={"seconds": self.seconds[name]})]


def within(monkeypatch, seconds, predicted, minutes=1.0):
    """The number of seeds of every candidate that is compared, and all fits in their order."""
    fitting = Fitting(seconds, minutes)
    monkeypatch.setattr(choosing.time, "monotonic", lambda: fitting.now)
    fits = Candidates(fitting, predicted, scoring=1.0).within({name: name for name in seconds}, fitting.clock, 1.0)
    return {name: len(several) for name, several in fits.items()}, fitting.names


def test_all_candidates_have_three_seeds_or_the_last_ones_are_left_out(monkeypatch):
    assert within(monkeypatch, {"a": 5, "b": 5, "c": 5}, 5) == (
        {"a": 3, "b": 3, "c": 3}, [f"{name}{n}" for n in range(3) for name in "abc"]
    )  # fmt: skip
    assert within(monkeypatch, {"a": 6, "b": 6, "c": 6}, 6)[0] == {"a": 3, "b": 3}
    assert within(monkeypatch, {"a": 12, "b": 12, "c": 12}, 12) == ({}, [])


def test_what_fits_take_replaces_what_was_predicted(monkeypatch):
    fits, names = within(monkeypatch, {"a": 5, "b": 5, "c": 8}, 4)
    assert fits == {"a": 3, "b": 3}
    assert names == ["a0", "b0", "c0", "a1", "b1", "a2", "b2"]
    assert within(monkeypatch, {"a": 15, "b": 15}, 4)[0] == {"a": 1}  # one candidate is not compared


def test_without_time_the_default_model_is_taken_and_noted(cells):
    choice = choose(cells, MeanField(), Clock(1e-6), epochs=1, progress=False)
    assert not choice.comparisons
    assert repr(choice.model) == repr(SCVI(likelihood=NB(), size=LatentSize()))
    assert choice.notes[0] == "There was no time to compare choices of likelihood: the usual one was taken."


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """The folder of an analysis of sixty cells on tissue, in two conditions."""
    folder = tmp_path_factory.mktemp("analysis")
    adata = simulated(cells=60, genes=12, sections=1, batches=1, seed=0)
    adata.obs["condition"] = ["treated", "ctrl"] * 30
    adata.write_h5ad(folder / "cells.h5ad")
    run("analyse", folder / "cells.h5ad", "--out", folder / "out", "--minutes", "0.0001", "--epochs", "2", "--denoised",
        "--quiet")  # fmt: skip
    return folder / "out"


def test_a_command_leaves_a_report_and_an_h5ad_that_scanpy_knows(analysed):
    names = {file.name for file in analysed.iterdir()}
    assert names >= {"report.html", "analysed.h5ad", "markers.csv", "script.py", "fit.safetensors", "genes.txt"}
    adata = anndata.read_h5ad(analysed / "analysed.h5ad")
    assert adata.obsm["X_pyroscvi"].shape == (60, 10)
    assert {"X_umap", "spatial"} <= set(adata.obsm)
    assert adata.obs["pyroscvi_cluster"].dtype == "category"
    assert (adata.layers["denoised"] > 0).all()
    assert set(adata.obsp) == {"connectivities", "distances"}
    report = (analysed / "report.html").read_text()
    for words in (
        "Counts: layer",
        "Clusters on the tissue",
        "They agree with cell_type",
        "no time to compare",
        "This took",
        "Files",
        "<th>rate elsewhere</th>",
    ):
        assert words in report
    assert "http" not in report.replace("http-equiv", "")
    if (analysed / "changes.csv").exists():
        assert set(pd.read_csv(analysed / "changes.csv")["reference"]) == {"ctrl"}


def test_a_report_says_that_clusters_have_cells_of_one_condition_only():
    adata = AnnData(obs=pd.DataFrame({"pyroscvi_cluster": list("0012")}, index=list("abcd")))
    table = pd.DataFrame({"within": list("0011")})
    assert "Only 2 of 3 clusters have cells of two levels" in _apart(table, adata)
    assert not _apart(table, adata[:3])


def test_the_script_repeats_the_analysis(analysed):
    done = subprocess.run([sys.executable, "-W", "ignore", "script.py"], cwd=analysed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    again, first = (anndata.read_h5ad(analysed / name) for name in ("from_script.h5ad", "analysed.h5ad"))
    np.testing.assert_allclose(again.obsm["X_pyroscvi"], first.obsm["X_pyroscvi"], rtol=1e-5)
    np.testing.assert_allclose(again.layers["denoised"], first.layers["denoised"], rtol=1e-5)
    assert (again.obs["pyroscvi_cluster"] == first.obs["pyroscvi_cluster"]).all()


def test_a_report_shows_latents_components_and_loadings(cells, monkeypatch, tmp_path):
    from pyroscvi.report import embedding
    from pyroscvi.workflow.levels import levels

    model = SCVI(latent=2, decoder=Linear(), prior=Mixture(components=2), likelihood=NB())
    fit = ps.fit(model, MeanField(), cells, epochs=2, progress=False)
    z = fit.latent(cells)
    page = levels(fit, cells, z, {"batch": np.asarray(cells.levels["batch"])[cells.batch]})
    for words in (
        "<h2>Latent",
        "most of it, batch",
        "probability of its cells",
        "<h2>Loadings",
        "largest and smallest",
    ):
        assert words in page
    assert page.count("data:image/png") == 4
    deep = ps.fit(SCVI(latent=2, likelihood=NB()), MeanField(), cells, epochs=1, progress=False)
    page = levels(deep, cells, z, {})
    assert "The model has no components" in page
    assert "is not linear, so it has no loadings" in page
    monkeypatch.setattr(embedding, "projection", lambda z: z[:, :2])
    simulated(cells=120, genes=20, seed=0).write_h5ad(tmp_path / "cells.h5ad")
    options = ("--counts", "counts", "--batch", "batch", "--latent", "2", "--epochs", "1", "--decoder", "mlp:4")
    run("fit", tmp_path / "cells.h5ad", *options, "--out", tmp_path / "run", "--quiet")
    run("report", tmp_path / "run", tmp_path / "cells.h5ad", "--out", tmp_path / "r.html", "--color", "cell_type")
    assert "<h2>Latent" in (tmp_path / "r.html").read_text()
