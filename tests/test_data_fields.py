"""Fields: an AnnData is read, whatever it is made of."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

import pyroscvi as ps
from pyroscvi.data import Cells, Fields, Nearest


def data(n: int = 12, g: int = 6, seed: int = 0) -> AnnData:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1.5, (n, g)).astype(np.float32)
    counts[:, 0] += 1
    counts[0] += 1  # no empty cell, no empty gene
    obs = pd.DataFrame(
        {
            "donor": pd.Categorical(np.array(["d2", "d1", "d3"])[np.arange(n) % 3], categories=["d2", "d1", "d3"]),
            "type": np.where(np.arange(n) % 4 == 0, None, np.array(["T", "B"])[np.arange(n) % 2]),
            "plate": np.arange(n) % 2 + 10,
            "treated": np.arange(n) % 2 == 0,
            "age": rng.normal(40, 10, n),
            "dose": rng.uniform(size=n).astype(np.float32),
            "size": rng.uniform(0.5, 2, n),
            "slice": np.array(["s1", "s2"])[np.arange(n) // (n // 2) % 2],
        },
        index=[f"cell{i}" for i in range(n)],
    )
    adata = AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(g)]))
    adata.layers["counts"] = counts
    adata.layers["logs"] = np.log1p(counts)
    adata.obsm["spatial"] = rng.uniform(size=(n, 2))
    adata.obsm["soft"] = pd.DataFrame(rng.dirichlet([1, 1, 1], n), index=obs.index, columns=["T", "B", "NK"])
    return adata


EVERYTHING = Fields(
    "counts",
    batch="donor",
    label="type",
    categories=("plate", "treated"),
    covariates=("age", "dose"),
    size_factor="size",
    spatial="spatial",
    section="slice",
    graph=Nearest(3),
)


def test_everything_is_read():
    adata = data()
    cells = EVERYTHING.read(adata)
    assert torch.equal(cells.x, torch.from_numpy(adata.layers["counts"]))
    assert cells.genes == tuple(adata.var_names)
    assert cells.names.tolist() == adata.obs_names.tolist()
    assert cells.levels == {
        "batch": ("d2", "d1", "d3"),
        "label": ("B", "T"),
        "plate": ("10", "11"),
        "treated": ("False", "True"),
    }
    assert cells.batch.tolist() == [0, 1, 2] * 4
    assert cells.label.tolist() == [-1, 0, 1, 0] * 3
    assert cells.categories["plate"].tolist() == [0, 1] * 6
    assert cells.categories["treated"].tolist() == [1, 0] * 6
    assert all(codes.dtype == torch.long for codes in cells.categories.values())
    torch.testing.assert_close(cells.size_factor, torch.tensor(adata.obs["size"].to_numpy()).float())
    torch.testing.assert_close(cells.covariates.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(cells.covariates.var(0, correction=0), torch.ones(2))
    assert cells.edges.shape == (2, 36)
    source, target = cells.edges
    assert ((source < 6) == (target < 6)).all()
    assert cells.dims.levels == {"batch": 3, "label": 2, "plate": 2, "treated": 2}
    assert repr(cells) == "Cells(12 cells, 6 genes, batch: 3, label: 2, plate: 2, treated: 2)"
    assert isinstance(cells, ps.Cells)
    assert Fields is ps.Fields


def test_counts_come_from_x_or_a_layer():
    adata = data()
    adata.X = np.arange(72, dtype=np.float32).reshape(12, 6)
    assert Fields().read(adata).x[11, 5] == 71
    assert torch.equal(Fields("counts").read(adata).x, torch.from_numpy(adata.layers["counts"]))
    with pytest.raises(KeyError, match=r"no layer 'count': its layers are 'counts', 'logs'; counts=None reads X"):
        Fields("count").read(adata)


FORMS = {
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "integers": lambda x: x.astype(np.int64),
    "double": lambda x: x.astype(np.float64),
    "small": lambda x: x.astype(np.uint8),
    "csr_matrix": sparse.csr_matrix,
    "csc_matrix": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "csr_integers": lambda x: sparse.csr_matrix(x.astype(np.int32)),
}


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("genes", [None, ("gene4", "gene0", "gene2")])
@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_matrix_is_read_alike(form, genes, view):
    adata = data()
    x = torch.from_numpy(adata.X.copy())
    given = AnnData(FORMS[form](adata.X), obs=adata.obs, var=adata.var)
    if view:
        given, x = given[2:9], x[2:9]
    cells = Fields(genes=genes).read(given)
    assert torch.equal(cells.x, x if genes is None else x[:, [4, 0, 2]])
    assert cells.x.dtype == torch.float32
    assert isinstance(cells.counts, torch.Tensor if "cs" not in form else sparse.csr_matrix)
    assert cells.genes == (genes or tuple(adata.var_names))
    assert torch.equal(cells.take([3, 1]).x, cells.x[[3, 1]])


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("genes", [None, ("gene4", "gene0", "gene2")])
@pytest.mark.parametrize("form", ["dense", "csr_matrix", "csc_matrix"])
def test_files_are_read_without_loading_them_first(tmp_path, monkeypatch, form, genes, view):
    monkeypatch.setattr("pyroscvi.data.matrices.ROWS", 5)  # several blocks, the last one short
    adata = data()
    x = torch.from_numpy(adata.X.copy())
    adata.obs["type"] = adata.obs["type"].astype("category")
    adata.X = FORMS[form](adata.X)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    try:
        assert isinstance(backed.file._file, h5py.File)
        if view:
            backed, x = backed[2:9], x[2:9]
        cells = Fields(genes=genes, batch="donor", label="type").read(backed)
    finally:
        (backed._adata_ref if view else backed).file.close()
    assert torch.equal(cells.x, x if genes is None else x[:, [4, 0, 2]])
    assert isinstance(cells.counts, torch.Tensor if form == "dense" else sparse.csr_matrix)
    assert len(cells.batch) == len(x)


def test_an_unusual_csr_is_brought_into_order():
    entries = np.array([1.0, 2, 3, 0, 4]), np.array([2, 0, 2, 1, 1]), np.array([0, 4, 5])  # unsorted, a repeat, a zero
    for dtype in (np.float32, np.float64):
        adata = AnnData(sparse.csr_matrix(entries, shape=(2, 3), dtype=dtype))
        cells = Fields().read(adata)
        assert cells.x.tolist() == [[2, 0, 4], [0, 4, 0]]
        assert cells.counts.nnz == 3
        assert cells.counts.has_sorted_indices
        assert adata.X.indices.tolist() == [2, 0, 2, 1, 1]  # those of the AnnData stay as they were


@pytest.mark.parametrize("form", ["dense", "fortran", "csr_matrix", "csc_matrix"])
def test_later_changes_of_the_adata_do_not_change_the_cells(form):
    adata = data()
    adata.X = FORMS[form](adata.X)
    cells = Fields().read(adata)
    before = cells.x.clone()
    if "cs" not in form:
        adata.X *= 0.5
    else:
        adata.X.data *= 0.5
    assert torch.equal(Cells(cells.counts).x, before)


def test_reading_changes_nothing():
    adata = data()
    kept = adata.copy()
    EVERYTHING.read(adata)
    assert adata.obs.equals(kept.obs)
    assert (adata.X == kept.X).all()
    assert adata.obsm.keys() == kept.obsm.keys()


# Categories


@pytest.mark.parametrize(
    ("column", "levels", "codes"),
    [
        (pd.Categorical(["b", "a", "b"], categories=["b", "unused", "a"]), ("b", "a"), [0, 1, 0]),
        (["z", "a", "z"], ("a", "z"), [1, 0, 1]),
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
        ([2.0, 1.0, 2.0], ("1", "2"), [1, 0, 1]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        (pd.array(["z", "a", "z"], dtype="string"), ("a", "z"), [1, 0, 1]),
        (pd.array([2, 1, 2], dtype="Int64"), ("1", "2"), [1, 0, 1]),
        (pd.Categorical([2, 1, 2], categories=[2, 1]), ("2", "1"), [0, 1, 0]),
    ],
)
def test_every_kind_of_column_has_levels(column, levels, codes):
    adata = AnnData(np.ones((3, 2), dtype=np.float32), obs=pd.DataFrame({"kind": column}, index=["a", "b", "c"]))
    cells = Fields(batch="kind").read(adata)
    assert cells.levels["batch"] == levels
    assert cells.batch.tolist() == codes


@pytest.mark.parametrize("column", [["a", None, "b"], ["a", np.nan, "b"], pd.array(["a", pd.NA, "b"], dtype="string")])
def test_a_missing_label_is_unknown_and_a_missing_batch_is_an_error(column):
    adata = AnnData(np.ones((3, 2), dtype=np.float32), obs=pd.DataFrame({"kind": column}, index=["x", "y", "z"]))
    assert Fields(label="kind").read(adata).label.tolist() == [0, -1, 1]
    for fields in (Fields(batch="kind"), Fields(categories="kind")):
        with pytest.raises(ValueError, match=r"\(obs\['kind'\]\): 1 of 3 values are missing, the first in cell 'y'"):
            fields.read(adata)
        (codes,) = fields.read(adata, unknown="allow").categories.values()
        assert codes.tolist() == [0, -1, 1]


def test_integers_with_missing_values_are_the_same_levels_as_integers():
    adata = AnnData(np.ones((3, 2), dtype=np.float32), obs=pd.DataFrame({"kind": [1, 2, 1]}, index=list("abc")))
    fields = Fields(label="kind").read(adata).fields
    adata.obs["kind"] = [2.0, np.nan, 1.0]
    assert fields.read(adata).label.tolist() == [1, -1, 0]


def test_one_level_can_be_declared_to_mean_unlabelled():
    adata = data()
    adata.obs["type"] = pd.Categorical(["T", "B", "Unknown"] * 4)
    cells = Fields(label="type", unlabelled="Unknown").read(adata)
    assert cells.levels["label"] == ("B", "T")
    assert cells.label.tolist() == [1, 0, -1] * 4


def test_columns_of_the_wrong_kind_are_refused():
    adata = data()
    with pytest.raises(TypeError, match=r"batch \(obs\['age'\]\) holds real numbers .*covariates"):
        Fields(batch="age").read(adata)
    with pytest.raises(TypeError, match=r"covariate 'donor' does not hold numbers but category: .*categories"):
        Fields(covariates="donor").read(adata)
    with pytest.raises(KeyError, match=r"no column 'donr' \(batch\); it has 'donor', 'type', 'plate'"):
        Fields(batch="donr").read(adata)
    with pytest.raises(KeyError, match=r"obsm has no 'X_spatial' \(coordinates\); it has 'spatial', 'soft'"):
        Fields(spatial="X_spatial").read(adata)
    adata.obs["type"] = None
    with pytest.raises(ValueError, match=r"label .* every value is missing"):
        Fields(label="type").read(adata)
    with pytest.raises(ValueError, match=r"write batch=\.\.\. or label=\.\.\."):
        Fields(categories=("batch",))


# Beliefs


def test_beliefs_are_weights_over_named_labels():
    adata = data()
    cells = Fields(belief="soft").read(adata)
    assert cells.levels == {"label": ("T", "B", "NK")}
    assert cells.dims.count("label") == 3
    torch.testing.assert_close(cells.belief, torch.tensor(adata.obsm["soft"].to_numpy()).float())
    assert (cells.label_weights(3).amax(-1) == 1).all()
    assert cells.take([1, 2]).belief.shape == (2, 3)


def test_a_row_of_missing_beliefs_is_replaced_by_the_label():
    adata = data()
    adata.obsm["soft"].iloc[[0, 1]] = np.nan
    alone, beside = Fields(belief="soft").read(adata), Fields(belief="soft", label="type").read(adata)
    assert alone.label_weights(3)[:2].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert beside.levels["label"] == ("T", "B", "NK")  # labels take the names of the columns
    assert beside.label_weights(3)[:2].tolist() == [[1, 1, 1], [0, 1, 0]]
    assert torch.equal(alone.label_weights(3)[2:], beside.label_weights(3)[2:])


def test_labels_without_a_column_of_belief_are_refused():
    adata = data()
    adata.obsm["soft"] = adata.obsm["soft"].to_numpy()  # its columns are called 0, 1, 2
    with pytest.raises(
        ValueError, match=r"belief .* has no column: 'B', 'T'\. Its columns are '0', '1', '2'.*DataFrame"
    ):
        Fields(belief="soft", label="type").read(adata)


def test_beliefs_that_are_no_weights_are_refused():
    adata = data()
    adata.obsm["soft"].iloc[3, 1] = -0.5
    with pytest.raises(ValueError, match=r"of logits.*1 of 36 values are not, the first is -0.5 in cell 'cell3'"):
        Fields(belief="soft").read(adata)
    adata.obsm["soft"].iloc[3] = 0
    with pytest.raises(ValueError, match=r"sum of a row of belief.* positive: 1 of 12 .*'cell3'"):
        Fields(belief="soft").read(adata)
    adata.obsm["soft"].iloc[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"the first is nan in cell 'cell3'"):
        Fields(belief="soft").read(adata)


def test_beliefs_are_matched_to_labels_by_name_at_query_time():
    fields = Fields(belief="soft").read(data()).fields
    query = data(5, seed=1)
    wanted = query.obsm["soft"].to_numpy()
    query.obsm["soft"] = query.obsm["soft"][["NK", "T", "B"]]
    torch.testing.assert_close(fields.read(query).belief, torch.tensor(wanted).float())
    query.obsm["soft"] = wanted  # without names, the columns are taken to be the labels in their order
    torch.testing.assert_close(fields.read(query).belief, torch.tensor(wanted).float())
    query.obsm["soft"] = wanted[:, :2]
    with pytest.raises(ValueError, match=r"belief .* has 2 columns for the 3 labels 'T', 'B', 'NK'"):
        fields.read(query)
    query.obsm["soft"] = pd.DataFrame(wanted, index=query.obs_names, columns=["T", "B", "monocyte"])
    with pytest.raises(ValueError, match=r"belief .*never seen before: 'monocyte'.*Known are 'T', 'B', 'NK'"):
        fields.read(query)
    query.obsm["soft"].iloc[0] = [0, 0, 1]  # certain to be of an unknown label: no information about the known labels
    query.obsm["soft"].iloc[1] = [0.5, 0, 0.5]
    assert fields.read(query, unknown="allow").belief[:2].tolist() == [[1, 1, 1], [0.5, 0, 0]]
    del query.obsm["soft"]  # new cells need no beliefs
    assert fields.read(query).belief is None
