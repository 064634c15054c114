"""Fields: an AnnData is read, whatever it is made of, and a second one is read the same way."""

import json
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

import pyroscvi as ps
from pyroscvi.data import Cells, Fields


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
    neighbours=3,
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
    with pytest.raises(KeyError, match=r"no layer 'count'; there are 'counts', 'logs'"):
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
    there = AnnData(FORMS[form](adata.X), obs=adata.obs, var=adata.var)
    if view:
        there, x = there[2:9], x[2:9]
    cells = Fields(genes=genes).read(there)
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
    there = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    try:
        assert isinstance(there.file._file, h5py.File)
        if view:
            there, x = there[2:9], x[2:9]
        cells = Fields(genes=genes, batch="donor", label="type").read(there)
    finally:
        (there._adata_ref if view else there).file.close()
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
def test_what_is_done_to_the_adata_later_does_not_reach_the_cells(form):
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


def test_a_label_may_say_that_nobody_gave_one():
    adata = data()
    adata.obs["type"] = pd.Categorical(["T", "B", "Unknown"] * 4)
    cells = Fields(label="type", unlabelled="Unknown").read(adata)
    assert cells.levels["label"] == ("B", "T")
    assert cells.label.tolist() == [1, 0, -1] * 4


def test_columns_of_the_wrong_kind_are_refused():
    adata = data()
    with pytest.raises(TypeError, match=r"batch \(obs\['age'\]\) holds real numbers .* covariates"):
        Fields(batch="age").read(adata)
    with pytest.raises(TypeError, match="covariate 'donor' does not hold numbers but category: name it in categories"):
        Fields(covariates="donor").read(adata)
    with pytest.raises(KeyError, match=r"no column 'donr' \(batch\); it has 'donor', 'type', 'plate'"):
        Fields(batch="donr").read(adata)
    with pytest.raises(KeyError, match=r"obsm has no 'X_spatial' \(coordinates\); it has 'spatial', 'soft'"):
        Fields(spatial="X_spatial").read(adata)
    adata.obs["type"] = None
    with pytest.raises(ValueError, match=r"label .* every value is missing"):
        Fields(label="type").read(adata)
    with pytest.raises(ValueError, match=r"say batch=\.\.\. or label=\.\.\."):
        Fields(categories=("batch",))


# Beliefs


def test_beliefs_are_weights_over_named_labels():
    adata = data()
    cells = Fields(belief="soft").read(adata)
    assert cells.levels == {"label": ("T", "B", "NK")}
    assert cells.dims.count("label") == 3
    torch.testing.assert_close(cells.said(3), torch.tensor(adata.obsm["soft"].to_numpy()).float())
    assert cells.take([1, 2]).belief.shape == (2, 3)


def test_a_row_of_missing_beliefs_says_what_the_label_says():
    adata = data()
    adata.obsm["soft"].iloc[[0, 1]] = np.nan
    alone, beside = Fields(belief="soft").read(adata), Fields(belief="soft", label="type").read(adata)
    assert alone.said(3)[:2].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert beside.levels["label"] == ("T", "B", "NK")  # labels take the names of the columns
    assert beside.said(3)[:2].tolist() == [[1, 1, 1], [0, 1, 0]]
    assert torch.equal(alone.said(3)[2:], beside.said(3)[2:])


def test_beliefs_that_are_no_weights_are_refused():
    adata = data()
    adata.obsm["soft"].iloc[3, 1] = -0.5
    with pytest.raises(ValueError, match=r"softmax.*1 of 36 values are not, the first is -0.5 in cell 'cell3'"):
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
    query.obsm["soft"].iloc[0] = [0, 0, 1]  # sure to be what nobody knew of: nothing is said of the labels there are
    query.obsm["soft"].iloc[1] = [0.5, 0, 0.5]
    assert fields.read(query, unknown="allow").belief[:2].tolist() == [[1, 1, 1], [0.5, 0, 0]]
    del query.obsm["soft"]  # nobody need have an opinion of new cells
    assert fields.read(query).belief is None


# Query time


def test_new_data_are_read_as_the_first_were():
    adata = data(40)
    fields = EVERYTHING.read(adata).fields
    query = data(9, seed=5)
    query.obs["donor"] = query.obs["donor"].astype(str)  # alphabetical, had it been the first
    cells = fields.read(query)
    assert cells.batch.tolist() == [0, 1, 2] * 3
    assert cells.levels == EVERYTHING.read(adata).levels
    age, first = query.obs["age"].to_numpy(), adata.obs["age"].to_numpy()
    torch.testing.assert_close(cells.covariates[:, 0], torch.tensor((age - first.mean()) / first.std()).float())
    assert cells.fields == fields


@pytest.mark.parametrize(("role", "column"), [("batch", "donor"), ("label", "type"), ("plate", "plate")])
def test_a_level_that_training_never_saw_is_named(role, column):
    fields = EVERYTHING.read(data()).fields
    query = data(6, seed=5)
    query.obs[column] = ["new", "newer", *query.obs[column].astype(str)[2:]]
    query.obs.loc[query.obs[column] == "None", column] = None
    known = ", ".join(map(repr, fields.levels[role]))
    wanted = (
        rf"{role} \(obs\['{column}'\]\): 2 cells are of levels never seen before: 'new', 'newer'. Known are {known}"
    )
    with pytest.raises(ValueError, match=wanted):
        fields.read(query)
    assert fields.read(query, unknown="allow").categories[role][:2].tolist() == [-1, -1]
    assert fields.read(query, unknown="allow").categories[role][2] >= 0
    assert fields.read(query, unknown="allow").dims.levels == EVERYTHING.read(data()).dims.levels


def test_new_cells_need_no_labels_but_need_a_batch():
    fields = EVERYTHING.read(data()).fields
    query = data(6, seed=5)
    del query.obs["type"]
    assert fields.read(query).label.tolist() == [-1] * 6
    del query.obs["donor"]
    with pytest.raises(KeyError, match=r"no column 'donor' \(batch\)"):
        fields.read(query)
    assert fields.read(query, unknown="allow").batch.tolist() == [-1] * 6


def test_genes_are_matched_by_name():
    adata = data()
    fields = Fields("counts").read(adata).fields
    query = data(5, seed=3)
    x = torch.from_numpy(query.layers["counts"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(fields.read(query).x, x)
    with pytest.warns(UserWarning, match="in another order: they are matched by name") as told:
        assert torch.equal(fields.read(query[:, ::-1]).x, x)
    assert len(told) == 1
    assert told[0].filename == __file__
    more = AnnData(np.hstack([np.full((5, 2), 9), x]), var=pd.DataFrame(index=["new1", "new2", *query.var_names]))
    with pytest.warns(UserWarning, match="2 other genes are left out: 'new1', 'new2'") as told:
        assert torch.equal(Fields.from_dict(fields.to_dict() | {"counts": None}).read(more).x, x)
    assert len(told) == 1


@pytest.mark.parametrize("form", ["dense", "csr_matrix", "csc_matrix"])
def test_missing_genes_are_an_error_or_zeros_when_asked(form):
    adata = data()
    fields = Fields().read(adata).fields
    query = data(5, seed=3)
    x = torch.from_numpy(query.X.copy())
    query.X = FORMS[form](query.X)
    query = query[:, ["gene5", "gene1", "gene0", "gene3"]]
    with pytest.raises(ValueError, match=r"2 of 6 genes are missing: 'gene2', 'gene4'\. .*missing='zero'"):
        fields.read(query)
    x[:, [2, 4]] = 0
    with pytest.warns(UserWarning, match="2 of 6 genes are missing and filled with zeros: 'gene2', 'gene4'$"):
        fields.read(query[:, ["gene0", "gene1", "gene3", "gene5"]], missing="zero")
    with pytest.warns(
        UserWarning, match=r"are missing and filled with zeros: 'gene2', 'gene4'; .*another order"
    ) as told:
        assert torch.equal(fields.read(query, missing="zero").x, x)
    assert len(told) == 1
    query.var_names = ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match=r"none of the 6 genes is here: 'gene0', .*wanted, 'a', 'b', 'c', 'd' found"):
        fields.read(query, missing="zero")


def test_repeated_gene_names_are_numbered_and_told_at_every_reading():
    adata = data(g=4)
    adata.var_names = ["A", "B", "A", "A"]
    with pytest.warns(UserWarning, match=r"names that stand for several genes are numbered.*: 'A'"):
        cells = Fields().read(adata)
    assert cells.genes == ("A", "B", "A-1", "A-2")
    query = adata[:, [1, 0, 2, 3]]
    with pytest.warns(UserWarning, match=r"'A'; the genes are in another order") as told:
        again = cells.fields.read(query)
    assert len(told) == 1
    assert torch.equal(again.x, cells.x)


def test_genes_chosen_by_name_make_no_noise_about_the_others():
    adata = data()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cells = Fields(genes=["gene3", "gene1"]).read(adata)
        again = cells.fields.read(adata)
    assert cells.genes == ("gene3", "gene1")
    assert torch.equal(cells.x, torch.from_numpy(adata.X[:, [3, 1]]))
    assert torch.equal(again.x, cells.x)
    with pytest.raises(ValueError, match="1 of 2 genes are missing: 'CD3D'"):
        Fields(genes=["gene3", "CD3D"]).read(adata)
    with pytest.raises(ValueError, match="genes name 'gene3' twice"):
        Fields(genes=["gene3", "gene1", "gene3"])


def test_fields_go_through_json():
    fields = EVERYTHING.read(data()).fields
    again = Fields.from_dict(json.loads(json.dumps(fields.to_dict())))
    assert again == fields
    query = data(7, seed=9)
    assert torch.equal(again.read(query).covariates, fields.read(query).covariates)
    assert Fields.from_dict(json.loads(json.dumps(Fields().to_dict()))) == Fields()


def test_fields_print_as_they_were_declared():
    assert "gene0" not in repr(EVERYTHING.read(data()).fields)
    assert "batch='donor'" in repr(EVERYTHING)


def test_cells_remember_their_fields_through_everything():
    cells = EVERYTHING.read(data())
    assert cells.fields.genes == tuple(f"gene{i}" for i in range(6))
    for some in (cells.take([0]), cells.subset([1, 2]), cells.split(0.5)[1], cells.to(dtype=torch.float64)):
        assert some.fields is cells.fields


def test_a_constant_covariate_says_nothing():
    adata = data()
    adata.obs["age"] = 0.1
    cells = Fields(covariates="age").read(adata)
    assert (cells.covariates == 0).all()
    adata.obs["age"] = 0.3
    torch.testing.assert_close(cells.fields.read(adata).covariates, torch.full((12, 1), 0.2))


# Several data sets at once


def pair() -> tuple[AnnData, AnnData]:
    a, b = data(6, 5, seed=1), data(8, 5, seed=2)
    b.var_names = ["gene9", "gene4", "gene3", "gene2", "gene1"]
    b.obs_names = [f"other{i}" for i in range(8)]
    return a, b


@pytest.mark.parametrize("layer", [None, "counts"])
@pytest.mark.parametrize("forms", [("dense", "dense"), ("csr_matrix", "csr_matrix"), ("dense", "csc_matrix")])
def test_several_data_sets_share_their_genes_or_have_them_all(forms, layer):
    a, b = pair()
    frames = [pd.DataFrame(x.X.copy(), columns=x.var_names, index=x.obs_names) for x in (a, b)]
    for x, form in zip((a, b), forms, strict=True):
        x.X = FORMS[form](x.X)
        x.layers["counts"] = x.X.copy()
    shared = Fields(layer, batch="donor").read([a, b])
    assert set(shared.genes) == {"gene1", "gene2", "gene3", "gene4"}
    wanted = pd.concat(frames, join="inner")[list(shared.genes)]
    assert (shared.x.numpy() == wanted.to_numpy()).all()
    assert shared.names.tolist() == [*a.obs_names, *b.obs_names]
    assert shared.levels["batch"] == ("d1", "d2", "d3")
    union = Fields(layer).read([a, b], genes="union")
    assert set(union.genes) == {"gene0", "gene1", "gene2", "gene3", "gene4", "gene9"}
    wanted = pd.concat(frames).fillna(0)[list(union.genes)]
    assert (union.x.numpy() == wanted.to_numpy()).all()
    assert union.fields.counts == layer
    with pytest.warns(UserWarning, match="another order|left out"):
        assert torch.equal(shared.fields.read(a, unknown="allow").x, shared.x[:6])


def test_the_data_set_is_the_batch_where_no_column_is():
    a, b = pair()
    b.obs_names = [*a.obs_names, "cell6", "cell7"]
    cells = Fields(batch="study", label="type").read({"Smith": a, "Jones": b})
    assert cells.levels["batch"] == ("Jones", "Smith")
    assert cells.batch.tolist() == [1] * 6 + [0] * 8
    assert len(set(cells.names)) == 14
    assert cells.names[0] == "cell0-Smith"


def test_labels_that_only_some_data_sets_have():
    a, b = pair()
    del b.obs["type"]
    cells = Fields(label="type").read([a, b])
    assert cells.label[:6].tolist() == [-1, 0, 1, 0, -1, 0]
    assert cells.label[6:].tolist() == [-1] * 8
    del b.obs["donor"]
    with pytest.raises(ValueError, match=r"batch \(obs\['donor'\]\): 8 of 14 values are missing"):
        Fields(batch="donor").read([a, b])
    with pytest.raises(KeyError, match="no column 'drug'"):
        Fields(categories="drug").read([a, b])


def test_sections_of_different_data_sets_are_different():
    a, b = pair()
    cells = Fields(spatial="spatial", section="slice", neighbours=2).read([a, b])
    source, target = cells.edges
    section = np.array([0] * 3 + [1] * 3 + [2] * 4 + [3] * 4)
    assert (section[source] == section[target]).all()
    assert cells.edges.shape == (2, 28)
    with pytest.raises(ValueError, match="several data sets in space: name their sections"):
        Fields(spatial="spatial").read([a, b])
    whole = Fields(spatial="spatial", section="study").read([a, b]).edges
    assert ((whole[0] < 6) == (whole[1] < 6)).all()


def test_several_are_checked_one_by_one():
    a, b = pair()
    b.X = b.X.copy()
    b.X[3, 2] = 0.5
    with pytest.raises(ValueError, match=r"'gene3' in cell 'other3'.*Fields\(counts='counts'\)"):
        Fields().read([a, b])
    with pytest.raises(ValueError, match="no AnnData"):
        Fields().read([])
    with pytest.raises(ValueError, match="'intersection' or their 'union', not 'inner'"):
        Fields().read([a, b], genes="inner")
    with pytest.raises(TypeError, match="from an AnnData, or a list or dict of them, not from str"):
        Fields().read("cells.h5ad")
