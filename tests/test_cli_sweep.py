"""``pyroscvi compare`` as a sweep: from words to fits, a table and a page."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from command_line import run

import pyroscvi as ps
from pyroscvi.cli import main
from pyroscvi.cli.grouped import spread
from pyroscvi.cli.sweep import declared_grid
from pyroscvi.comparison import sweep as module
from pyroscvi.data.datasets import simulated

QUICK = ("--counts", "counts", "--batch", "batch", "--decoder", "mlp:8", "--epochs", "2", "--particles", "20",
         "--method", "importance", "--held-out", "0.3")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "cells.h5ad"
    simulated(cells=60, genes=12, seed=0).write_h5ad(file)
    return file


def test_an_option_takes_several_words():
    grid = ("--likelihood", "--latent")
    line = "data.h5ad --likelihood nb zinb --latent 5 10 --seed 1 --latent 20 -- --likelihood a b"
    assert " ".join(spread(line.split(), grid)) == (
        "data.h5ad --likelihood nb --likelihood zinb --latent 5 --latent 10 --seed 1 --latent 20 -- --likelihood a b"
    )


def test_words_of_the_command_line_become_declarations():
    declared = declared_grid({"likelihood": ["nb", "zinb:per_batch"], "prior": ["mixture:4"], "latent": ["5", "10"]})
    assert list(declared) == [
        "nb, latent 5",
        "nb, latent 10",
        "zinb:per_batch, latent 5",
        "zinb:per_batch, latent 10",
    ]
    model, guide = declared["zinb:per_batch, latent 5"]
    assert repr(model) == "SCVI(latent=5, prior=Mixture(components=4), likelihood=ZINB(dispersion=PerBatch()))"
    assert repr(guide) == "MeanField()"
    mixed = declared_grid({"model": ["scvi", "ldvae"], "guide": ["full_covariance"], "encoder": ["read_cell:8"]})
    assert [repr(pair) for pair in mixed["ldvae"]] == ["LDVAE()", "FullCovariance(encoder=ReadCell(widths=8))"]
    with pytest.raises(ValueError, match="--latent names a choice twice: 5 5"):
        declared_grid({"latent": ["5", "5"]})


@pytest.fixture(scope="module")
def swept(data):
    out = data.parent / "runs"
    run("compare", data, "--likelihood", "nb", "zinb", "--latent", "2", *QUICK, "--seeds", 2, "--by", "batch",
        "--category", "cell_type", "--out", out, "--report", data.parent / "report.html")  # fmt: skip
    return out


def test_a_sweep_writes_runs_and_a_table(swept, data):
    table = pd.read_csv(swept / "comparison.csv", index_col="fit")
    assert set(table.index) == {"nb", "zinb"}
    assert (table["seed_sd"] > 0).all()
    assert table["over_clusters"].notna().all()
    runs = pd.read_csv(swept / "runs.csv")
    assert runs.groupby("fit")["seed"].apply(list).to_dict() == {"nb": [0, 1], "zinb": [0, 1]}
    cells = pd.read_csv(swept / "cells.csv", index_col="cell")
    np.testing.assert_allclose(cells["nb"].mean(), table.loc["nb", "evidence"])
    assert len(cells) == 18
    assert (swept / "comparison.png").read_bytes()[:4] == b"\x89PNG"

    first = swept / runs.set_index(["fit", "seed"]).loc[("nb", 0), "folder"]
    assert repr(ps.load(first).model) == "SCVI(latent=2, decoder=MLP(widths=8), likelihood=NB())"
    roles = pd.read_csv(first / "cells.csv", index_col="cell")
    assert set(roles.index[roles["held_out"]]) == set(cells.index)


def test_score_limits_the_number_of_cells(swept, data, capsys):
    few = data.parent / "few.html"
    run("compare", data, "--likelihood", "nb", "zinb", "--latent", "2", *QUICK, "--by", "batch", "--seeds", 1,
        "--score", 9, "--single", "--category", "cell_type", "--out", data.parent / "few", "--report", few)  # fmt: skip
    assert "42 cells to fit and 9 to compare on" in capsys.readouterr().out
    assert "drawn with seed 0; 9 of them were scored" in few.read_text("utf-8")
    folder = pd.read_csv(data.parent / "few" / "runs.csv")["folder"].iloc[0]
    roles = pd.read_csv(data.parent / "few" / folder / "cells.csv", index_col="cell")
    assert roles["held_out"].sum() == 18  # all that no fit has seen, and not the nine that were scored
    runs = pd.read_csv(swept / "runs.csv").set_index(["fit", "seed"])["folder"]
    table = data.parent / "scored.csv"
    run("compare", swept / runs["nb", 0], "--data", data, "--particles", 20, "--score", 7, "--out", table)
    assert "7 of them are scored" in capsys.readouterr().out


def test_a_report_says_how_cells_were_held_out(swept, data):
    text = (data.parent / "report.html").read_text("utf-8")
    assert "18 held-out cells, 12 genes" in text
    assert "(30% of every batch, drawn with seed 0)" in text
    assert "predicted better by zinb" in text
    assert "clusters of cells (batch), paired. With so few" in text
    assert "cells, by batch, that each fit" in text  # without a label, the field of the clusters


def test_the_folders_of_a_sweep_are_runs_and_seeds_of_a_model_are_one(swept, data, capsys):
    runs = pd.read_csv(swept / "runs.csv").set_index(["fit", "seed"])["folder"]
    table = data.parent / "again.csv"
    every = [swept / folder for folder in runs]
    run("compare", *every, "--data", data, "--particles", 20, "--method", "importance", "--by", "batch", "--out", table)
    printed = capsys.readouterr().out
    assert "18 of 60 cells" in printed
    assert f"{runs['nb', 1]} is {runs['nb', 0]} with another seed" in printed
    again, first = pd.read_csv(table, index_col="fit"), pd.read_csv(swept / "comparison.csv", index_col="fit")
    columns = ["evidence", "difference", "standard_error", "seeds", "verdict"]
    pd.testing.assert_frame_equal(
        again[columns].reset_index(drop=True), first[columns].reset_index(drop=True), rtol=1e-9
    )
    assert set(again["seeds"]) == {2}


def test_a_second_time_nothing_is_fitted(swept, data, capsys, monkeypatch):
    fitted = []

    def fit(model, guide, cells, **settings):
        fitted.append(repr(model.likelihood))
        return ps.fit(model, guide, cells, **settings)

    monkeypatch.setattr(module, "fit", fit)
    picture = data.parent / "again.png"
    command = ("compare", data, "--latent", "2", *QUICK, "--category", "cell_type", "--out", swept, "--seeds", 1,
               "--picture", picture, "--force", "--likelihood")  # fmt: skip
    run(*command, "nb", "zinb")
    assert fitted == []
    assert picture.read_bytes() == (swept / "comparison.png").read_bytes()
    assert "1 of 2  nb: is there" in capsys.readouterr().out
    run(*command, "poisson", "nb")
    assert fitted == ["Poisson()"]


@pytest.mark.parametrize("name", ["cells.csv", "runs.csv", "comparison.csv", "comparison.png"])
def test_a_file_that_a_sweep_did_not_write_is_not_replaced(name, data, tmp_path, capsys):
    (tmp_path / name).write_text("my own")
    assert main(["compare", str(data), "--likelihood", "nb", "--out", str(tmp_path)]) != 0
    assert f"{name} is not as a sweep wrote it" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "my own"


def test_a_table_that_was_edited_is_not_replaced(swept, data, capsys):
    table = swept / "comparison.csv"
    written = table.read_text()
    table.write_text(written + "my own\n")
    assert main(["compare", str(data), "--likelihood", "nb", "--out", str(swept)]) != 0
    assert "comparison.csv is not as a sweep wrote it" in capsys.readouterr().err
    table.write_text(written)


WRONG = [
    (["compare", "DATA", "--likelihood", "nb", "zinb"], "Missing option '--out'"),
    (["compare", "DATA", "--out", "runs"], "nothing to choose from: give choices, --likelihood nb zinb"),
    (
        ["compare", "RUNS", "--likelihood", "nb", "--data", "DATA"],
        "--data is for run folders, and --likelihood declares a sweep",
    ),
    (["compare", "RUNS"], "Missing option '--data'"),
    (
        ["compare", "DATA", "DATA", "--likelihood", "nb", "--out", "runs"],
        "a sweep takes one data set, not 2",
    ),
    (["compare", "--likelihood", "nb", "DATA", "--out", "runs"], "the data come first"),
    (["compare", "--likelihood", "nb", "x.h5ad"], "takes all choices after it, and x.h5ad was taken for one"),
    (["compare", "DATA", "--likelihood", "nb", "zimb", "--out", "runs"], "did you mean 'zinb'?"),
    (["compare", "DATA", "--likelihood", "nb", "--missing", "zero", "--out", "runs"], "--missing is for run folders"),
    (["compare", "DATA", "--likelihood", "nb", "--page", "mine.py", "--out", "runs"], "--page is for run folders"),
    (["compare", "RUNS", "--data", "DATA", "--epochs", "9"], "--epochs is for a sweep: run folders are fitted already"),
    (["compare", "RUNS", "--data", "DATA", "--held-out", "0.2"], "--held-out is for a sweep"),
    (["compare", "RUNS", "--data", "DATA", "--hvg", "5"], "--hvg is for a sweep"),
    (["compare", "RUNS", "--data", "DATA", "--seeds", "3"], "--seeds is for a sweep"),
    (["compare", "RUNS", "--data", "DATA", "--batch", "donor"], "--batch is for a sweep"),
    (["compare", "DATA", "--likelihood", "nb", "--out", "RUN"], "is the folder of a run: choose another folder"),
    (["compare", "DATA", "--likelihood", "nb", "nb", "--out", "runs"], "names a choice twice: nb nb"),
    (["compare", "DATA", "--likelihood", "nb", "--out", "DATA"], "is a file: a sweep takes a folder"),
    (["compare", "nowhere.h5ad", "--likelihood", "nb", "--out", "runs"], "nowhere.h5ad: there is no such file"),
    (["compare", "DATA", "--likelihood", "nb", "--out", "runs", "--report", "DATA"], "exists already"),
    (
        ["compare", "DATA", "--size", "observed", "latent", *QUICK, "--latent", "2", "--seeds", "1", "--out", "runs"],
        "cannot be compared",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(a)[:60] for a, _ in WRONG])
def test_an_error_is_printed_on_one_line(arguments, message, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "configuration.json").write_text("{}")
    stand_in = {"DATA": str(data), "RUNS": str(tmp_path / "folder"), "RUN": str(tmp_path / "run")}
    assert main([stand_in.get(argument, argument) for argument in arguments]) != 0
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert ad.read_h5ad(data).n_obs == 60
