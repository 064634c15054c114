"""What the command line draws: latents, tissue, and the pictures of the demo."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from command_line import run

import pyroscvi as ps
from pyroscvi.cli import main


@pytest.fixture
def flat(monkeypatch):
    """UMAP compiles for seconds; test_plots has it."""
    monkeypatch.setattr("pyroscvi.report.embedding.projection", lambda z, *_, **__: z[:, :2])


def test_embed(nb, data, tmp_path, flat, capsys):
    out, picture = tmp_path / "new" / "z.h5ad", tmp_path / "umap.png"
    run("embed", nb, data, "--out", out, "--picture", picture, "--color", "cell_type", "--quiet")
    assert not capsys.readouterr().out
    embedded, adata = ad.read_h5ad(out), ad.read_h5ad(data)
    np.testing.assert_array_equal(embedded.obsm["X_pyroscvi"], ps.load(nb).latent(adata))
    np.testing.assert_array_equal(embedded.obsm["X_umap"], embedded.obsm["X_pyroscvi"][:, :2])  # where sc.pl.umap looks
    np.testing.assert_array_equal(embedded.X.toarray(), adata.X.toarray())
    assert picture.read_bytes()[:4] == b"\x89PNG"
    run("embed", nb, data, "--out", out, "--corrected", "--force")
    corrected = ps.load(nb).latent(adata, corrected=True)
    np.testing.assert_array_equal(ad.read_h5ad(out).obsm["X_pyroscvi"], corrected)


def test_a_page_without_continuous_latents_has_probabilities_of_kinds_in_its_files(data, tmp_path):
    run("fit", data, "--counts", "counts", "--model", "mixture:kinds=3", "--epochs", "2", "--out", tmp_path / "run")
    run("embed", tmp_path / "run", data, "--out", tmp_path / "embedded.h5ad")
    for file in (tmp_path / "run" / "latents.h5ad", tmp_path / "embedded.h5ad"):
        p = ad.read_h5ad(file).obsm["X_pyroscvi"]
        assert p.shape == (60, 3)
        np.testing.assert_allclose(p.sum(1), 1)


def test_embed_draws_cells_on_the_tissue(nb, data, tmp_path, capsys):
    adata, file, picture = ad.read_h5ad(data), tmp_path / "tissue.h5ad", tmp_path / "tissue.png"
    command = ["embed", str(nb), str(file), "--tissue", str(picture), "--color", "cell_type", "--out"]
    adata.write_h5ad(file)
    assert main([*command, str(tmp_path / "z.h5ad")]) == 1
    assert "tissue.h5ad has no obsm 'spatial'" in capsys.readouterr().err
    adata.obsm["spatial"] = np.random.default_rng(0).random((60, 2))
    adata.write_h5ad(file)
    run(*command, tmp_path / "z.h5ad")
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.filterwarnings("ignore:compile=True")  # there may be no compiler
def test_demo(tmp_path, capsys, monkeypatch, flat):
    from pyroscvi.cli import demo

    few = {name: demo.VARIANTS[name] for name in ("Poisson", "NB + mixture")}
    monkeypatch.setattr(demo, "VARIANTS", few)
    out = tmp_path / "demo"
    command = ("demo", "--out", out, "--epochs", 1, "--particles", 2, "--seeds", 2)
    run(*command)
    first = capsys.readouterr().out
    assert "70 cells" in first
    made = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert {"comparison.csv", "comparison.png", "history.png", "latents.h5ad", "latents.png", "checksums.json"} < made
    table = pd.read_csv(out / "comparison.csv", index_col="fit")
    assert (table["seeds"] == 2).all()
    assert table["certificate"].str.contains("gap").all()
    assert sum(file.endswith("fit.safetensors") for file in made) == 4
    assert set(ad.read_h5ad(out / "latents.h5ad").obsm) == {"X_Poisson", "X_NB + mixture"}

    monkeypatch.setattr("pyroscvi.comparison.sweep.fit", None)  # taken up, not fitted again
    run(*command)
    assert capsys.readouterr().out.split("nats")[1:] == first.split("nats")[1:]
    (out / "latents.png").write_text("my own")
    assert main([str(word) for word in command]) == 1
    assert "latents.png is not as a sweep wrote it" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["umap", "tsne", "pca"])
def test_latents_are_drawn_clustered_and_coloured_several_times(nb, data, method, tmp_path):
    out, picture = tmp_path / "out.h5ad", tmp_path / "out.png"
    more = ("--clusters", "1", "--color", "batch") if method == "pca" else ()
    run("embed", nb, data, "--out", out, "--picture", picture, "--project", method, *more)
    adata = ad.read_h5ad(out)
    assert adata.obsm[f"X_{method}"].shape == (60, 2)
    assert picture.stat().st_size > 1000
    assert ("pyroscvi_cluster" in adata.obs) == (method == "pca")
