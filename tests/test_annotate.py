"""Annotation: types of cells, cells of no type that the fit knows, scores and coarse labels."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from command_line import run
from fits import quick

import pyroscvi as ps
from pyroscvi.analysis.annotate import Annotation
from pyroscvi.cli import main
from pyroscvi.data.coarse import read_tree
from pyroscvi.data.datasets import simulated
from pyroscvi.guides import MeanField
from pyroscvi.models import SCANVI, SCVI, Annotated
from pyroscvi.report.annotation import annotated


@pytest.fixture(scope="module")
def types():
    """200 cells of three types that differ clearly; 40 genes."""
    return simulated(cells=200, genes=40, types=3, difference=1.5, seed=3)


@pytest.fixture(scope="module")
def fitted(types):
    """A fit that knows two of the types."""
    two = types[types.obs["cell_type"] != "type2"].copy()
    cells = ps.Fields(counts="counts", label="cell_type").read(two)
    return quick(Annotated(latent=3), MeanField(), cells, epochs=30, batch_size=67, lr=3e-2, validation=0)


def test_known_types_are_found_and_the_type_that_is_not_known_is_unknown(fitted, types):
    result = fitted.annotate(types)
    truth = types.obs["cell_type"]
    scores = result.scores(truth)
    assert scores["accuracy"] > 0.9
    assert scores["called_unknown"] < 0.1
    assert scores["found_unknown"] > 0.6
    assert scores["cells"] == (truth != "type2").sum()
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1)
    assert list(result.table.index) == list(types.obs_names)
    usual = types[truth != "type2"]
    against = fitted.annotate(types, reference=usual, unknown=0.05)
    assert "against held-out cells" in repr(against)
    assert against.scores(truth)["called_unknown"] == pytest.approx(5 / 137)  # ranks of (1 + 5) / 138 at most


def test_recorded_labels_are_not_looked_at(fitted, types):
    wrong, without = types[:40].copy(), types[:40].copy()
    wrong.obs["cell_type"] = "type0"
    del without.obs["cell_type"]
    first, second = (fitted.annotate(adata).probabilities for adata in (wrong, without))
    pd.testing.assert_frame_equal(first, second)


def test_scores_of_a_known_annotation():
    p = pd.DataFrame({"A": [0.9, 0.6, 0.2, 0.8], "B": [0.1, 0.4, 0.8, 0.2]}, index=list("wxyz"))
    kind = ["A", "A", "B", "A"]
    table = pd.DataFrame({"type": kind, "probability": p.max(axis=1), "annotation": ["A", "A", "B", "unknown"]})
    result = Annotation(table, p, "simulated cells")
    scores = result.scores(["A", "B", "B", "C"])
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8]).mean())
    assert scores["calibration_error"] == pytest.approx((0.1 + 0.6 + 0.2) / 3)
    assert scores["called_unknown"] == 0
    assert scores["found_unknown"] == 1
    assert result.scores([None, None, "B", None])["accuracy"] == 1
    assert len(annotated(result, ["A", "B", "B", "C"]).axes) == 2


def test_a_model_without_types_is_refused(types):
    cells = ps.Fields(counts="counts").read(types)
    plain = quick(SCVI(latent=2), MeanField(), cells, epochs=1)
    with pytest.raises(ValueError, match="SCVI has no types of cells: fit a model that has, such as Annotated"):
        plain.annotate(types)


TREE = {"CD4 T": "T", "CD8 T": "T", "T": "lymphocyte", "B": "lymphocyte"}


def test_a_coarse_label_allows_every_type_below_it():
    beliefs = ps.coarse(["CD4 T", "T", "lymphocyte", None, "monocyte"], TREE)
    assert list(beliefs) == ["B", "CD4 T", "CD8 T", "monocyte"]
    assert beliefs.iloc[:3].to_numpy().tolist() == [[0, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0]]
    assert beliefs.iloc[3].isna().all()
    assert beliefs.iloc[4].tolist() == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="no type lies at or below the labels 'T': types are 'B'"):
        ps.coarse(["T"], TREE, types=["B"])
    with pytest.raises(ValueError, match="the tree has a cycle at 'b'"):
        ps.coarse(["a"], {"a": "b", "b": "c", "c": "b"}, types=["a"])


def test_several_columns_of_labels_are_one_label_of_combinations():
    labels = pd.DataFrame({"type": ["B", "T", None, None], "state": ["on", None, "off", None]}, index=list("abcd"))
    beliefs = ps.combined(labels)
    assert list(beliefs) == ["B / off", "B / on", "T / off", "T / on"]
    assert beliefs.iloc[:3].to_numpy().tolist() == [[0, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0]]
    assert beliefs.loc["d"].isna().all()
    p = pd.DataFrame([[0.1, 0.2, 0.3, 0.4]], columns=list(beliefs))
    apart = ps.separated(p, ["type", "state"])
    np.testing.assert_allclose(apart["type"].loc[0, ["B", "T"]], [0.3, 0.7])
    np.testing.assert_allclose(apart["state"].loc[0, ["off", "on"]], [0.4, 0.6])
    with pytest.raises(ValueError, match="column 'type' has no labels, or has labels with ' / ' in them"):
        ps.combined(labels.replace("B", "B / T"))
    with pytest.raises(ValueError, match="no probabilities of combinations of 3 labels"):
        ps.separated(p, ["a", "b", "c"])


@pytest.mark.parametrize("page", [Annotated, SCANVI])
def test_a_page_with_labels_learns_from_two_columns_that_are_partly_missing(types, page):
    adata = types.copy()
    kind = adata.obs["cell_type"].astype(object)
    group = kind.where(kind == "type0", "other")  # the second column tells one type from the others
    first, second = kind.copy(), group.copy()
    first.iloc[1::3], second.iloc[2::3] = None, None  # a third of the cells has both
    adata.obsm["belief"] = ps.combined(pd.DataFrame({"kind": first, "group": second}))
    cells = ps.Fields(counts="counts", belief="belief").read(adata)
    fit = quick(page(latent=3), MeanField(), cells, epochs=30, batch_size=67, lr=3e-2, validation=0)
    p = ps.separated(fit.probabilities(cells, "y", particles=20), ["kind", "group"])
    assert (p["kind"].idxmax(axis=1).to_numpy() == kind.to_numpy()).mean() > 0.75  # by chance 0.33
    assert (p["group"].idxmax(axis=1).to_numpy() == group.to_numpy()).mean() > 0.85


def test_a_tree_is_read_from_lines_of_a_node_and_its_parent(tmp_path):
    file = tmp_path / "tree.tsv"
    file.write_text("# type\tabove\nCD4 T\tT\nCD8 T, T\n\nT\tlymphocyte\nB\tlymphocyte\n", "utf-8")
    assert read_tree(file) == TREE
    for line, message in (
        ("B\tT\tx", "line 2: .* is not a node and its parent"),
        ("A\tT", "'A' has two parents, 'B' and"),
    ):
        file.write_text(f"A\tB\n{line}\n", "utf-8")
        with pytest.raises(ValueError, match=message):
            read_tree(file)


def test_the_command_sums_over_the_types_that_a_coarse_label_allows(types, tmp_path, capsys):
    adata = types[:60].copy()
    adata.obs["shown"] = np.where(
        np.arange(60) % 3 == 0, "none", np.where(adata.obs["cell_type"] == "type0", "A", "BC")
    )
    adata.write_h5ad(tmp_path / "some.h5ad")
    (tmp_path / "tree.csv").write_text("B,BC\nC,BC\n", "utf-8")
    how = ("--counts", "counts", "--label", "shown", "--unlabelled", "none", "--epochs", 1, "--latent", 2)
    tree = ("--label-tree", tmp_path / "tree.csv")
    run("fit", tmp_path / "some.h5ad", "--model", "annotated", *how, *tree, "--out", tmp_path / "run")
    assert ps.load(tmp_path / "run").levels["label"] == ("A", "B", "C")
    run("annotate", tmp_path / "run", tmp_path / "some.h5ad", "--particles", 5, "--out", tmp_path / "table.csv")
    assert set(pd.read_csv(tmp_path / "table.csv")["type"]) <= {"A", "B", "C"}
    capsys.readouterr()
    fit = ("fit", tmp_path / "some.h5ad", "--counts", "counts", *tree, "--out", tmp_path / "none")
    assert main([*map(str, fit)]) == 1
    assert "--label-tree is a tree of the labels in --label" in capsys.readouterr().err


def test_a_fit_learns_from_coarse_labels(types):
    adata = types.copy()
    labels = adata.obs["cell_type"].astype(object).copy()
    labels.iloc[50:] = np.where(labels.iloc[50:] == "type0", "type0", "other")
    adata.obsm["belief"] = ps.coarse(labels, {"type1": "other", "type2": "other"}).set_axis(adata.obs_names)
    cells = ps.Fields(counts="counts", belief="belief").read(adata)
    fit = quick(Annotated(latent=3), MeanField(), cells, epochs=30, batch_size=67, lr=3e-2, validation=0)
    assert fit.annotate(adata).scores(adata.obs["cell_type"])["accuracy"] > 0.85


def test_the_commands_fit_with_unlabelled_cells_and_annotate(types, tmp_path, capsys):
    adata = types[:120].copy()
    adata.obs["shown"] = adata.obs["cell_type"].astype(str).where(np.arange(120) % 2 == 0, "none")
    adata.obsm["p"] = np.full((120, 3), 1.0)
    adata.write_h5ad(tmp_path / "some.h5ad")
    how = ("--counts", "counts", "--label", "shown", "--unlabelled", "none", "--epochs", 8, "--lr", 0.02)
    run("fit", tmp_path / "some.h5ad", "--model", "annotated", "--latent", 3, *how, "--out", tmp_path / "run")
    assert ps.load(tmp_path / "run").levels["label"] == ("type0", "type1", "type2")
    types[120:].copy().write_h5ad(tmp_path / "query.h5ad")
    query, out = tmp_path / "query.h5ad", tmp_path / "annotated.h5ad"
    capsys.readouterr()
    picture = ("--truth", "cell_type", "--picture", tmp_path / "annotation.png")
    run("annotate", tmp_path / "run", query, "--out", out, *picture, "--reference", tmp_path / "some.h5ad")
    printed = capsys.readouterr().out
    assert "80 cells, compared with held-out cells" in printed
    assert "accuracy: " in printed
    written = ad.read_h5ad(out)
    assert set(written.obs["pyroscvi_annotation"]) <= {"type0", "type1", "type2", "unknown"}
    assert list(written.obsm["pyroscvi_probabilities"]) == ["type0", "type1", "type2"]
    run("annotate", tmp_path / "run", query, "--truth", "cell_type", "--json")
    result = json.loads(capsys.readouterr().out)
    assert len(result["cells"]) == 80
    assert result["scores"]["cells"] == 80
    assert main(["annotate", str(tmp_path / "run"), str(query), "--picture", "a.png"]) == 1
    assert "name their column with --truth" in capsys.readouterr().err
