"""Fields that have read once read other data the same way: genes by name, the same levels, the same moments."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from test_data_fields import EVERYTHING, FORMS, data

from pyroscvi.data import Fields


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
    with pytest.warns(UserWarning, match="in another order: they are matched by name") as caught:
        assert torch.equal(fields.read(query[:, ::-1]).x, x)
    (warning,) = (one for one in caught if one.category is UserWarning)
    assert warning.filename == __file__
    more = AnnData(np.hstack([np.full((5, 2), 9), x]), var=pd.DataFrame(index=["new1", "new2", *query.var_names]))
    with pytest.warns(UserWarning, match="2 other genes are left out: 'new1', 'new2'") as caught:
        assert torch.equal(Fields.from_dict(fields.to_dict() | {"counts": None}).read(more).x, x)
    (warning,) = (one for one in caught if one.category is UserWarning)


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
    ) as caught:
        assert torch.equal(fields.read(query, missing="zero").x, x)
    assert len(caught) == 1
    with pytest.warns(
        UserWarning, match="are missing and left out of the probability of these cells: 'gene2', 'gene4'"
    ):
        cells = fields.read(query, missing="marginalise")
    assert torch.equal(cells.x, x)
    assert torch.equal(cells.measured, torch.tensor([True, True, False, True, False, True]).expand(5, -1))
    query.var_names = ["a", "b", "c", "d"]
    for missing in ("error", "marginalise", "zero"):  # zeros for every gene are useless, and not suggested
        with pytest.raises(ValueError, match="no gene matches") as caught:
            fields.read(query, missing=missing)
        assert str(caught.value) == (
            "no gene matches: 'gene0', 'gene1', 'gene2' and 3 more are wanted, 'a', 'b', 'c' and 1 more are given. "
            "Give genes the names that they had at first"
        )


def test_genes_that_were_not_measured_in_some_cells_of_training_are_no_surprise_in_others():
    a, b = data(6, seed=1), data(8, seed=2)[:, :4].copy()
    b.obs_names = [f"other{i}" for i in range(8)]
    cells = Fields().read([a, b], genes="union")
    assert cells.fields.panels == ((0, 1, 2, 3),)
    fields = Fields.from_dict(json.loads(json.dumps(cells.fields.to_dict())))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # ours; those of pandas about anndata are not what is asked here
        again = fields.read(b)
        both = fields.read([b, a], genes="union")
    assert torch.equal(again.measured, cells.measured[6:])
    assert torch.equal(both.measured, cells.measured[[*range(6, 14), *range(6)]])
    assert again.fields == both.fields == fields
    with pytest.raises(ValueError, match="3 of 6 genes are missing"):
        fields.read(b[:, :3])
    with pytest.raises(ValueError, match="2 of 6 genes are missing"):  # of a, they would be left out unasked
        fields.read([a, b])
    with pytest.warns(UserWarning, match="filled with zeros"):
        assert fields.read(b, missing="zero").measured is None


def test_cells_that_are_dropped_leave_the_panels_of_the_others_in_place():
    a, b = data(6, seed=1), data(8, seed=2)[:, :4].copy()
    a.X[2] = 0
    b.obs_names = [f"other{i}" for i in range(8)]
    with pytest.warns(UserWarning, match="1 of 14 cells have no counts"):
        cells = Fields().read([a, b], genes="union", empty="drop")
    assert cells.panel.tolist() == [1] * 5 + [0] * 8


def test_repeated_gene_names_are_numbered_with_a_warning_at_every_reading():
    adata = data(g=4)
    adata.var_names = ["A", "B", "A", "A"]
    with pytest.warns(UserWarning, match=r"names of several genes are numbered.*: 'A'"):
        cells = Fields().read(adata)
    assert cells.genes == ("A", "B", "A-1", "A-2")
    query = adata[:, [1, 0, 2, 3]]
    with pytest.warns(UserWarning, match=r"'A'; the genes are in another order") as caught:
        again = cells.fields.read(query)
    assert len(caught) == 1
    assert torch.equal(again.x, cells.x)


def test_genes_chosen_by_name_give_no_warning_about_other_genes():
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


def test_a_constant_covariate_is_zero():
    adata = data()
    adata.obs["age"] = 0.1
    cells = Fields(covariates="age").read(adata)
    assert (cells.covariates == 0).all()
    adata.obs["age"] = 0.3
    torch.testing.assert_close(cells.fields.read(adata).covariates, torch.full((12, 1), 0.2))
