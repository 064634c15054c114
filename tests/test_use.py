"""What a fit is used for: effects of conditions, realism of generated cells, denoising, query cells."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from command_line import run
from fits import quick

import pyroscvi as ps
from pyroscvi.analysis.baselines import baselines
from pyroscvi.analysis.effect_scores import _energy_distance
from pyroscvi.analysis.unit_rates import unit_sums
from pyroscvi.calibration.realism import realism
from pyroscvi.cli import main
from pyroscvi.cli.using import conditions
from pyroscvi.data.datasets import simulated
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, Embedding, LatentSize, Linear, Nothing, OneHot, PerBatch, ReadCell
from pyroscvi.report.differential import curves


@pytest.fixture(scope="module")
def adata():
    """240 cells of two types; gene0 is four times as frequent in stimulated cells of either type."""
    cells = simulated(cells=240, genes=30, types=2, seed=0)
    rng = np.random.default_rng(0)
    cells.obs["condition"] = pd.Categorical(rng.choice(["ctrl", "stim"], 240))
    counts = cells.layers["counts"].toarray()
    stimulated = (cells.obs["condition"] == "stim").to_numpy()
    counts[:, 0] = rng.poisson(np.where(stimulated, 24.0, 6.0))
    cells.layers["counts"] = cells.X = counts.astype(np.float32)
    return cells


@pytest.fixture(scope="module")
def fitted(adata):
    fields = ps.Fields(batch="batch", categories=("condition",))
    page = SCVI(latent=2, condition=OneHot("batch") + OneHot("condition"), likelihood=NB(), decoder=Linear())
    return quick(page, MeanField(), fields.read(adata), epochs=40, batch_size=120, lr=3e-2, validation=0)


STIM, CTRL = {"condition": "stim"}, {"condition": "ctrl"}


def test_the_gene_that_responds_has_the_largest_effect_in_every_group(fitted, adata):
    controls = adata[adata.obs["condition"] == "ctrl"].copy()
    table = fitted.effect(controls, STIM, CTRL, by="cell_type", average="batch", progress=False)
    assert len(table) == 60
    first = table.groupby("group").first()
    assert (first["gene"] == "gene0").all()
    assert ((first["low"] < 2) & (first["high"] > 2)).all()
    assert (first["p_change"] > 0.99).all()
    np.testing.assert_allclose(table["low"] + table["high"], 2 * table["log2_fold_change"], atol=1e-9)
    whole = fitted.effect(controls, STIM, CTRL, progress=False)
    assert "group" not in whole
    back = fitted.effect(controls, CTRL, STIM, progress=False).set_index("gene")
    np.testing.assert_allclose(whole.set_index("gene")["log2_fold_change"], -back["log2_fold_change"][whole["gene"]])
    with pytest.raises(ValueError, match="both set the same conditions"):
        fitted.effect(controls, STIM, {"batch": "batch0"})


def test_a_curve_of_effects_has_the_rows_of_each_value_and_a_panel_for_each_gene(fitted, adata):
    controls = adata[adata.obs["condition"] == "ctrl"].copy()
    table = fitted.effect_curve(controls, "condition", ["ctrl", "stim"], CTRL, by="cell_type", progress=False)
    none, one = (rows for _, rows in table.groupby("condition"))
    assert np.abs(none["log2_fold_change"]).max() == 0
    alone = fitted.effect(controls, STIM, CTRL, by="cell_type", progress=False)
    pd.testing.assert_frame_equal(one.drop(columns="condition").reset_index(drop=True), alone)
    figure = curves(table, "condition", genes=3)
    assert len(figure.axes) == 3
    assert figure.axes[0].get_title(loc="left") == "gene0"
    with pytest.raises(ValueError, match="condition: give at least one value"):
        fitted.effect_curve(controls, "condition", [], CTRL)


def test_a_curve_computes_the_condition_that_it_compares_with_once(fitted, adata, monkeypatch):
    computed = []
    counted = lambda *args, **how: computed.append(1) or unit_sums(*args, **how)  # noqa: E731
    monkeypatch.setattr("pyroscvi.analysis.effect.unit_sums", counted)
    fitted.effect_curve(adata, "condition", ["ctrl", "stim", "ctrl"], CTRL, samples=1, progress=False)
    assert len(computed) == 5  # what was observed, the condition that the curve is compared with, and three values


def test_baselines_of_an_effect_are_zero_the_mean_of_the_others_and_the_nearest_of_them():
    effects = {name: np.array([change, 1.0]) for name, change in {"a": 1, "b": 2, "c": 6}.items()}
    like = {"a": np.zeros(3), "b": np.full(3, 5.0), "c": np.ones(3)}
    found = baselines(effects, like, "a")
    assert {name: value.tolist() for name, value in found.items()} == {
        "no change": [0, 0],
        "additive": [4, 1],
        "nearest": [6, 1],
    }
    assert list(baselines({"a": effects["a"]}, like, "a")) == ["no change"]
    del effects["b"]  # the effect in the target may be unknown
    assert baselines(effects, like, "b")["nearest"].tolist() == [6, 1]


def test_scores_of_effects_beside_other_predictions(fitted, adata):
    scores = fitted.effect_scores(adata, STIM, CTRL, "cell_type").set_index(["group", "prediction"])
    assert len(scores) == 8
    for group in ("type0", "type1"):
        own, none = scores.loc[group, "fit"], scores.loc[group, "no change"]
        assert own["correlation"] > 0.8
        assert own["error"] < none["error"]
        assert 0.5 < own["coverage"] <= 1
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 200, 5))
    assert abs(_energy_distance(x, y, 0)) < 0.1 < _energy_distance(x + 1, y, 0)
    with pytest.raises(ValueError, match="no group has cells under both"):
        fitted.effect_scores(adata[adata.obs["condition"] == "ctrl"].copy(), STIM, CTRL, "cell_type")


def test_realism_tells_cells_of_another_distribution_and_not_those_of_the_same():
    rng = np.random.default_rng(0)
    mean = rng.gamma(2, 2, 20)
    one, other = rng.poisson(mean, (80, 20)), rng.poisson(mean, (80, 20))
    wide = rng.poisson(mean * rng.gamma(1, 1, (80, 20)))
    same, different = realism(one, other), realism(one, wide)
    assert same.loc["classifier area", "generated"] < 0.65
    assert different.loc["classifier area", "generated"] > 0.9
    assert same.loc["mean of a gene", "agreement"] > 0.9
    assert different.loc["zeros per gene", "generated"] > different.loc["zeros per gene", "real"]
    with pytest.raises(ValueError, match="10 of each at least"):
        realism(one[:5], other)


PAGES = [
    (SCVI(latent=2, likelihood=NB()), MeanField()),
    (SCVI(latent=2, condition=Embedding(width=3), likelihood=NB(PerBatch()), size=LatentSize()), MeanField()),
    (SCVI(latent=2, condition=OneHot("condition") + OneHot("batch") + OneHot("condition")),
     MeanField(encoder=ReadCell(condition=OneHot("batch")))),
]  # fmt: skip


@pytest.mark.parametrize(("page", "guide"), PAGES, ids=["one-hot", "tables", "several"])
def test_new_batches_get_weights_and_nothing_else_changes(page, guide, adata):
    fields = ps.Fields(batch="batch", categories=("condition",))
    fit = quick(page, guide, fields.read(adata), epochs=2, batch_size=120)
    new = adata[:60].copy()
    new.obs["batch"] = "new"
    new.X = np.asarray(new.X) * np.where(np.arange(30) == 3, 5, 1)
    wider = fit.extended(new, epochs=15, lr=5e-2, progress=False)
    assert wider.levels["batch"] == ("batch0", "batch1", "new")
    np.testing.assert_allclose(wider.latent(adata), fit.latent(adata), atol=1e-5)
    np.testing.assert_allclose(wider.denoise(adata, library=1.0), fit.denoise(adata, library=1.0), rtol=1e-3)
    share = [wider.denoise(new, given={"batch": level}, library=1.0)[:, 3].mean() for level in ("new", "batch0")]
    assert share[0] > 1.05 * share[1]
    assert wider.record["extended"]["levels"] == ["new"]
    with pytest.raises(ValueError, match="no level of 'batch' that training did not have"):
        fit.extended(adata)


def test_an_extended_fit_can_be_saved(adata, tmp_path):
    fit = quick(SCVI(latent=2), MeanField(), ps.Fields(batch="batch").read(adata), epochs=1, batch_size=120)
    new = adata[:40].copy()
    new.obs["batch"] = "new"
    wider = fit.extended(new, epochs=1, progress=False)
    wider.save(tmp_path / "wider.safetensors")
    again = ps.load(tmp_path / "wider.safetensors")
    np.testing.assert_array_equal(again.denoise(new), wider.denoise(new))


def test_a_model_without_weights_of_batches_is_not_extended(adata):
    fit = quick(
        SCVI(latent=2, condition=Nothing()), MeanField(), ps.Fields(batch="batch").read(adata), epochs=1, batch_size=120
    )
    new = adata[:40].copy()
    new.obs["batch"] = "new"
    with pytest.raises(ValueError, match="no weight of SCVI or its guide belongs to a level of 'batch'"):
        fit.extended(new, progress=False)


def test_conditions_of_the_command_line():
    assert conditions(["a=b", "dose=2", "x=0.5"]) == {"a": "b", "dose": 2, "x": 0.5}
    with pytest.raises(ValueError, match="'a' is no condition: write FIELD=VALUE"):
        conditions(["a"])


def test_every_command_on_one_run(adata, tmp_path, capsys):
    file = tmp_path / "cells.h5ad"
    adata.write_h5ad(file)
    condition = ("--category", "condition", "--condition", "one_hot:batch + one_hot:condition")
    how = ("--latent", 2, "--decoder", "linear", "--likelihood", "nb", "--batch", "batch", *condition)
    run("fit", file, *how, "--epochs", 5, "--held-out", 0.3, "--out", tmp_path / "run")
    capsys.readouterr()
    sides = ("--given", "condition=stim", "--against", "condition=ctrl", "--by", "cell_type")
    run(
        "perturb",
        tmp_path / "run",
        file,
        *sides,
        "--picture",
        tmp_path / "p.png",
        "--out",
        tmp_path / "p.csv",
        "--score",
    )
    printed = capsys.readouterr().out
    assert "condition=stim against condition=ctrl, in type0: " in printed
    assert "energy_distance" in printed
    assert len(pd.read_csv(tmp_path / "p.csv")) == 60
    run("perturb", tmp_path / "run", file, *sides, "--given", "condition=ctrl", "--picture", tmp_path / "curve.png")
    assert "condition=ctrl against condition=ctrl, in type1: 0 genes" in capsys.readouterr().out
    assert (tmp_path / "curve.png").exists()
    run("perturb", tmp_path / "run", file, *sides, "--json")
    assert len(json.loads(capsys.readouterr().out)["effects"]) == 60

    run(
        "generate",
        tmp_path / "run",
        "-n",
        40,
        "--given",
        "condition=stim",
        "--real",
        file,
        "--out",
        tmp_path / "g.h5ad",
    )
    assert "classifier area" in capsys.readouterr().out
    made = ad.read_h5ad(tmp_path / "g.h5ad")
    assert made.shape == (40, 30)
    assert set(made.obs["condition"]) == {"stim"}

    run("denoise", tmp_path / "run", file, "--average", "batch", "--library", 100, "--out", tmp_path / "d.h5ad")
    rates = ad.read_h5ad(tmp_path / "d.h5ad").layers["denoised"]
    np.testing.assert_allclose(rates.sum(1), 100, rtol=1e-4)

    new = adata[:50].copy()
    new.obs["batch"] = "new"
    new.write_h5ad(tmp_path / "new.h5ad")
    capsys.readouterr()
    query = ("query", tmp_path / "run", tmp_path / "new.h5ad", "--epochs", 1)
    for batch in ("unknown", "batch0", "learn"):
        run(*query, "--batch", batch, "--out", tmp_path / f"{batch}.h5ad", "--quiet")
        assert ad.read_h5ad(tmp_path / f"{batch}.h5ad").obsm["X_pyroscvi"].shape == (50, 2)
    assert capsys.readouterr().out == ""
    assert main([*map(str, query), "--out", str(tmp_path / "x.h5ad")]) == 1
    assert "levels never seen before: 'new'" in capsys.readouterr().err
