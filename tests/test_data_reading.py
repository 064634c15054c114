"""``ps.read``: one function reads the common formats, and says in one line why it cannot."""

import gzip
import json
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
from anndata import AnnData
from anndata.io import write_elem
from files_on_disk import FORMS
from scipy import sparse

import pyroscvi as ps
from pyroscvi.data import simulated


@pytest.fixture(scope="module")
def adata() -> AnnData:
    return simulated(cells=21, genes=5, seed=0)


def mtx(adata, folder, *, packed=True, genes="features.tsv"):
    """10x Genomics' folder, as Cell Ranger writes it: genes x cells."""
    folder.mkdir()

    def write(name):
        return gzip.open(folder / f"{name}.gz", "wb") if packed else (folder / name).open("wb")

    with write("matrix.mtx") as file:
        scipy.io.mmwrite(file, adata.X.T.astype(int))
    lines = [f"ENSG{n}\t{gene}\tGene Expression" for n, gene in enumerate(adata.var_names)]
    for name, rows in ((genes, lines), ("barcodes.tsv", adata.obs_names)):
        with write(name) as file:
            file.write("\n".join(rows).encode() + b"\n")
    return folder


def tenx_h5(adata, path):
    counts = sparse.csr_matrix(adata.X)  # genes x cells by columns is cells x genes by rows
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(adata.obs_names, dtype="S")
        group["data"], group["indices"], group["indptr"] = counts.data.astype("i4"), counts.indices, counts.indptr
        group["shape"] = np.array(counts.shape[::-1])
        n = adata.n_vars
        group["features/id"] = np.array([f"ENSG{i}" for i in range(n)], dtype="S")
        group["features/name"] = np.array(adata.var_names, dtype="S")
        group["features/feature_type"] = np.array(["Gene Expression"] * n, dtype="S")
        group["features/genome"] = np.array(["GRCh38"] * n, dtype="S")
    return path


def h5mu(adata, path):
    with h5py.File(path, "w") as file:
        write_elem(file, "mod/rna", adata)
        write_elem(file, "mod/adt", adata[:, :2].copy())
    return path


def spatialdata(adata, path):
    import zarr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about defaults of later versions of anndata
        zarr.open_group(str(path), mode="w").create_group("tables")
        adata.write_zarr(path / "tables" / "table")
    return path


def table(adata, path, rows="cell"):
    frame = pd.DataFrame(adata.X.toarray(), adata.obs_names, adata.var_names)
    frame = frame.T if rows == "gene" else frame
    frame.rename_axis(rows).to_csv(path, sep="," if ".csv" in path.name else "\t")
    return path


EVERY = {name: FORMS[name] for name in ("h5ad", "zarr", "batch file", "folder", "folder of batch files")} | {
    "10x mtx": lambda adata, path: mtx(adata, path / "hg19"),
    "10x mtx, version 2": lambda adata, path: mtx(adata, path / "hg19", packed=False, genes="genes.tsv"),
    "10x h5": lambda adata, path: tenx_h5(adata, path / "filtered.h5"),
    "MuData": lambda adata, path: h5mu(adata, path / "cite.h5mu"),
    "SpatialData": lambda adata, path: spatialdata(adata, path / "tissue.zarr"),
    "csv": lambda adata, path: table(adata, path / "counts.csv"),
    "tsv.gz, genes in rows": lambda adata, path: table(adata, path / "counts.tsv.gz", "gene"),
}


@pytest.mark.parametrize("form", EVERY)
def test_every_format_gives_the_same_cells(adata, form, tmp_path):
    read = ps.read(EVERY[form](adata, tmp_path))
    read = read[adata.obs_names, adata.var_names]  # files of a folder may have another order
    np.testing.assert_array_equal(sparse.csr_matrix(read.X).toarray(), adata.X.toarray())
    assert ps.Fields().read(read).x.shape == (21, 5)


def test_annotations_are_joined_by_the_column_that_holds_the_names_of_cells(adata, tmp_path):
    rows = pd.DataFrame({"TSNE.1": 0.5, "barcodes": adata.obs_names, "celltype": adata.obs["cell_type"].astype(str)})
    rows.iloc[::-1].to_csv(tmp_path / "types.tsv", sep="\t", index=False)
    read = ps.read(mtx(adata, tmp_path / "hg19"), annotations=tmp_path / "types.tsv")
    assert list(read.obs["celltype"]) == list(adata.obs["cell_type"])
    assert ps.Fields(label="celltype", covariates="TSNE.1").read(read).levels["label"] == ("type0", "type1", "type2")
    rows.iloc[1:].to_csv(tmp_path / "fewer.csv", index=False)
    with pytest.warns(UserWarning, match="has no row for 1 of 21 cells"):
        assert ps.read(tmp_path / "hg19", tmp_path / "fewer.csv").obs["celltype"].isna().sum() == 1
    rows.assign(barcodes="x").to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(ValueError, match=r"none of its columns .* holds the names of the cells"):
        ps.read(tmp_path / "hg19", tmp_path / "other.csv")


def test_objects_in_images_are_counted(tmp_path):
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}, {"id": 3, "file_name": "c.jpg"}],
        "categories": [
            {"id": 1, "name": "person", "supercategory": "person"}, {"id": 18, "name": "dog", "supercategory": "animal"}
        ],
        "annotations": [{"image_id": i, "category_id": c} for i, c in ((7, 18), (7, 18), (7, 1), (3, 1))],
    }  # fmt: skip
    (tmp_path / "instances.json").write_text(json.dumps(content))
    adata = ps.read(tmp_path / "instances.json")
    assert adata.X.toarray().tolist() == [[1, 2], [0, 0], [1, 0]]
    assert list(adata.obs_names) == ["a", "b", "c"]
    assert list(adata.var_names) == ["person", "dog"]
    assert list(adata.obs["main_supercategory"]) == ["animal", "none", "person"]
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json cannot be read: it has no 'images', 'annotations', 'cat"):
        ps.read(tmp_path / "other.json")


def test_names_that_are_repeated_are_numbered(adata, tmp_path):
    twice = adata.copy()
    twice.var_names = ["A", "A", *adata.var_names[2:]]
    twice.obs_names = ["C", "C", *adata.obs_names[2:]]
    with pytest.warns(UserWarning, match="names of several cells are numbered"):
        read = ps.read(tenx_h5(twice, tmp_path / "raw.h5"))
    assert list(read.var_names[:2]) == ["A", "A-1"]
    assert list(read.obs_names[:2]) == ["C", "C-1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.h5ad", None, "there is no such file or folder"),
        ("cells.rds", "R", r"cannot be read: its name ends in none of '\.h5ad', .* and it is no folder"),
        ("cells.h5", "no HDF5", "cannot be read"),
        ("empty.csv", "", "cannot be read"),
        ("names.csv", "cell,type,g\na,B,1\n", "columns 'type' do not hold numbers: the first column alone holds names"),
    ],
)
def test_what_cannot_be_read_is_one_line(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        ps.read(tmp_path / name)


def test_a_folder_of_no_cells_and_a_store_of_several_tables_say_what_to_give(adata, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no files of cells"):
        ps.read(tmp_path / "empty")
    store = spatialdata(adata, tmp_path / "tissue.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_zarr(store / "tables" / "squares")
    with pytest.raises(ValueError, match=r"it has 2 tables .*: give one, .*/tables/NAME"):
        ps.read(store)
    assert anndata.read_zarr(store / "tables" / "squares").n_obs == 21
