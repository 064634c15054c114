"""Options of the command line that say what to do with cells that lack something."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from files_on_disk import batch_file, folder
from fits import quick

import pyroscvi as ps
from pyroscvi.cli import main
from pyroscvi.cli.runs import Run
from pyroscvi.data import Cells, simulated
from pyroscvi.data.genes import unnumbered
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI

pytestmark = [
    pytest.mark.filterwarnings(f"default:.*{words}")
    for words in ("have no counts", "have no count", "genes are missing", "genes that some files lack")
]

QUICK = ("--batch", "batch", "--latent", "2", "--epochs", "1", "--decoder", "mlp:4")


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def adata() -> AnnData:
    """Thirty cells; one has no counts, and the batch of another is missing."""
    adata = simulated(cells=30, genes=9, seed=0)
    adata.X = adata.X.multiply((np.arange(30) != 4)[:, None]).tocsr()
    adata.obs.loc["cell7", "batch"] = None
    return adata


@pytest.fixture(scope="module")
def data(adata, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "cells.h5ad"
    adata.write_h5ad(file)
    return file


@pytest.fixture(scope="module")
def fitted(data) -> Path:
    out = data.parent / "run"
    run("fit", data, *QUICK, "--out", out, "--unknown", "allow", "--empty", "drop")
    return out


@pytest.mark.parametrize("backed", [(), ("--backed",)])
def test_an_error_names_the_option_that_helps(data, backed, tmp_path, capsys):
    command = ["fit", str(data), *QUICK, "--out", str(tmp_path / "run"), *backed]
    assert main(command) == 1
    assert "1 of 30 cells have no counts: 'cell4'. Leave them out before reading, or read with --empty drop" in (
        capsys.readouterr().err
    )
    command += ["--empty", "drop"]
    assert main(command) == 1
    assert "or read with --unknown allow to treat them as unknown" in capsys.readouterr().err
    run(*command, "--unknown", "allow")
    latents = anndata.read_h5ad(tmp_path / "run" / "latents.h5ad")
    assert list(latents.obs_names) == [f"cell{n}" for n in range(30) if n != 4]
    assert latents.obs["size"]["cell5"] == simulated(cells=30, genes=9, seed=0).obs["size"]["cell5"]


@pytest.mark.parametrize(
    ("slip", "remedy"),
    [
        (("--held-out", "1.5"), "--held-out must lie between 0 and 1, not 1.5"),
        (("--counts", "logs"), "counts in 'X', 'counts': read them without --counts or with --counts counts."),
        (("--guide", "spatial_gnn"), "read their coordinates with --spatial ..., or choose a guide"),
    ],
)
def test_a_slip_is_answered_with_an_option(slip, remedy, tmp_path, capsys):
    adata, file = simulated(cells=30, genes=9, seed=0), tmp_path / "cells.h5ad"
    adata.layers["logs"] = adata.X.log1p()
    adata.write_h5ad(file)
    assert main(["fit", str(file), *QUICK, "--out", str(tmp_path / "run"), *slip]) == 1
    assert remedy in capsys.readouterr().err


def test_embed_reads_what_python_reads(fitted, adata, tmp_path, capsys):
    file, out = tmp_path / "query.h5ad", tmp_path / "out.h5ad"
    query = adata[:, 2:].copy()
    query.obs["batch"] = "new"
    query.write_h5ad(file)
    command = ["embed", str(fitted), str(file), "--out", str(out)]
    for option, value in (("--missing", "marginalise"), ("--empty", "drop"), ("--unknown", "allow")):
        assert main(command) == 1
        assert f"ead with {option} {value}" in capsys.readouterr().err
        command += [option, value]
    run(*command)
    assert list(anndata.read_h5ad(out).obs_names) == [f"cell{n}" for n in range(30) if n != 4]


def test_embed_leaves_out_genes_that_were_not_measured(fitted, adata, tmp_path):
    file, out = tmp_path / "query.h5ad", tmp_path / "out.h5ad"
    query = adata[:3, 2:].copy()
    query.write_h5ad(file)
    run("embed", fitted, file, "--missing", "marginalise", "--out", out)
    f = ps.load(fitted)
    with pytest.warns(UserWarning, match="2 of 9 genes are missing and left out"):
        cells = f.fields.read(query, missing="marginalise")
    assert cells.measured.sum().item() == 21
    np.testing.assert_array_equal(anndata.read_h5ad(out).obsm["X_pyroscvi"], f.latent(cells))


def test_files_with_other_genes_are_one_fit(adata, tmp_path, capsys):
    """And the fit reads each of them without an option: it knows both panels."""
    folder = tmp_path / "files"
    folder.mkdir()
    adata[8:20].write_h5ad(folder / "a.h5ad")
    adata[20:, 2:].copy().write_h5ad(folder / "b.h5ad")
    run("fit", folder, *QUICK, "--join", "union", "--out", tmp_path / "run")
    assert "genes that some files lack are left out of the probability of their cells" in capsys.readouterr().err
    f = ps.load(tmp_path / "run")
    assert f.dims.genes == 9
    assert [len(panel) for panel in f.record["panels"]] == [7]
    run("embed", tmp_path / "run", folder / "b.h5ad", "--out", tmp_path / "b.h5ad")
    assert anndata.read_h5ad(tmp_path / "b.h5ad").obsm["X_pyroscvi"].shape == (10, 2)


def test_a_damaged_file_is_an_error_of_one_line(data, tmp_path, capsys):
    import h5py

    file = tmp_path / "damaged.h5ad"
    file.write_bytes(data.read_bytes())
    with h5py.File(file, "r+") as opened:
        opened["X/indices"][0] = -1
    for backed in ((), ("--backed",)):
        assert main(["fit", str(file), *QUICK, "--out", str(tmp_path / "run"), *backed]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("pyroscvi: X is a damaged sparse matrix: indices must be >= 0")


def test_cells_of_one_name_are_all_fitted_if_one_of_them_was(tmp_path):
    """A held-out "C-1" may be called "C" in another file, where "C" was fitted."""
    names = pd.Index(["A", "B", "B-1", "C", "C-1", "D-1"], name="cell")
    assert list(unnumbered(names)) == ["A", "B", "B", "C", "C", "D-1"]
    cells = pd.DataFrame({"held_out": [True, True, False, False, True, True]}, index=names)
    assert list(Run(tmp_path, {}, None, cells).fitted_on) == ["B", "B-1", "C"]


def test_a_run_without_fields_cannot_read_a_file(tmp_path):
    fitted = quick(SCVI(latent=2), MeanField(), Cells(torch.ones(4, 3)), epochs=1)
    with pytest.raises(ValueError, match=r"run: its fit was made without an AnnData and has no fields"):
        _ = Run(tmp_path / "run", {}, fitted, pd.DataFrame()).fields


def test_a_run_names_its_genes_and_another_run_takes_them(tmp_path, capsys):
    data = tmp_path / "cells.h5ad"
    simulated(cells=30, genes=9, seed=0).write_h5ad(data)
    (tmp_path / "chosen.txt").write_text("gene5\n\ngene2\n")
    run("fit", data, *QUICK, "--genes", tmp_path / "chosen.txt", "--out", tmp_path / "a")
    assert ps.load(tmp_path / "a").genes == ("gene5", "gene2")
    run("fit", data, *QUICK, "--genes", tmp_path / "a" / "genes.txt", "--out", tmp_path / "b")
    assert ps.load(tmp_path / "b").genes == ("gene5", "gene2")
    assert main(["fit", str(data), "--hvg", "4", "--hvg-by", "seurat_v3", "--out", str(tmp_path / "c")]) == 1
    assert "in 9 genes: choose --hvg-by pearson_residuals" in capsys.readouterr().err
    assert main(["fit", str(data), "--genes", "x.txt", "--hvg", "3", "--out", str(tmp_path / "c")]) == 1
    assert "--genes names the genes, and --hvg chooses them: give one of the two" in capsys.readouterr().err


def test_a_donor_is_held_out_whole(tmp_path):
    adata = simulated(cells=40, genes=9, seed=0)
    adata.obs["donor"] = [f"d{n % 4}" for n in range(40)]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    run("fit", tmp_path / "cells.h5ad", *QUICK, "--held-out", "0.25", "--split-by", "donor", "--out", tmp_path / "run")
    held_out = pd.read_csv(tmp_path / "run" / "cells.csv", index_col="cell")["held_out"]
    assert sorted(held_out.groupby(adata.obs["donor"].to_numpy()).mean()) == [0, 0, 0, 1]


def test_every_command_reads_folders_of_batch_files_and_annotations(tmp_path):
    adata = simulated(cells=60, genes=9, seed=0)
    place = folder(adata, tmp_path / "batches", batch_file, "h5")
    run("fit", place, *QUICK, "--out", tmp_path / "run")
    run("embed", tmp_path / "run", place, "--out", tmp_path / "latents.h5ad")
    assert anndata.read_h5ad(tmp_path / "latents.h5ad").obsm["X_pyroscvi"].shape == (60, 2)
    run("compare", tmp_path / "run", "--data", place, "--particles", "10", "--out", tmp_path / "table.csv")
    bare = AnnData(adata.X, obs=adata.obs[[]], var=adata.var)
    bare.write_h5ad(tmp_path / "bare.h5ad")
    adata.obs.rename_axis("barcode").to_csv(tmp_path / "obs.tsv", sep="\t")
    run("fit", tmp_path / "bare.h5ad", *QUICK, "--annotations", tmp_path / "obs.tsv", "--out", tmp_path / "annotated")
    assert ps.load(tmp_path / "annotated").levels["batch"] == ("batch0", "batch1")
