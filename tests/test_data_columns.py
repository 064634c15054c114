"""Columns and tables of obs and obsm, layers and names that cannot be read: what the errors say."""

from contextlib import nullcontext

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from test_data_checks import adata, counts, refusal

from pyroscvi.advice import command_line
from pyroscvi.data import Fields

# Tables and columns of other kinds


@pytest.mark.parametrize(("name", "fields"), [("soft", Fields(belief="soft")), ("place", Fields(spatial="place"))])
@pytest.mark.parametrize(
    ("table", "message"),
    [
        (sparse.csr_matrix(np.ones((30, 2))), "is a sparse matrix: give a dense array"),
        (np.full((30, 2), "a"), "does not hold numbers but <U1"),
        (np.full((30, 2), 1j), "does not hold numbers but complex128"),
        (np.ones((30, 2, 2)), r"must be a table of cells by columns, not an array of shape \(30, 2, 2\)"),
        (np.ones((30, 0)), r"must be a table of cells by columns, not an array of shape \(30, 0\)"),
        (pd.DataFrame({"x": ["a"] * 30, "y": 1.0}, index=[f"cell{i}" for i in range(30)]), "does not hold numbers"),
    ],
)
def test_tables_of_other_kinds_are_refused(name, fields, table, message):
    data = adata(counts())
    data.obsm[name] = table
    with pytest.raises((TypeError, ValueError), match=rf"\(obsm\['{name}'\]\) {message}"):
        fields.read(data)


def test_coordinates_have_two_or_three_columns():
    data = adata(counts())
    data.obsm["place"] = np.random.default_rng(0).uniform(size=(30, 50))
    assert "(obsm['place']) must have two or three columns, not 50" in refusal(data, Fields(spatial="place"))


@pytest.mark.parametrize("value", [[1], {"a": 1}, {1}])
def test_labels_that_cannot_be_levels_are_refused(value):
    data = adata(counts())
    data.obs["kind"] = pd.Series([value] * 30, index=data.obs_names, dtype=object)
    with pytest.raises(TypeError, match=f"holds values of type '{type(value).__name__}', which cannot be levels"):
        Fields(batch="kind").read(data)


def test_a_repeated_column_is_refused():
    data = adata(counts())
    data.obs = pd.DataFrame([["a", "b"]] * 30, index=data.obs_names, columns=["kind", "kind"])
    assert "obs has 2 columns called 'kind' (batch): rename" in refusal(data, Fields(batch="kind"))


def test_a_missing_layer_says_that_there_are_none():
    with pytest.raises(KeyError, match="there is no layer 'counts': it has no layers; counts=None reads X"):
        Fields("counts").read(adata(counts()))


@pytest.mark.parametrize("option", ["missing", "unknown", "empty"])
def test_misspelt_options_are_refused(option):
    assert f"{option} is 'error' or " in refusal(adata(counts()), **{option: "Drop"})


# The command line has options of its own


def test_remedies_are_written_for_python_or_for_the_command_line():
    x = counts()
    data, unseen = adata(np.log1p(x), counts=x), adata(x)
    data.obs["donor"], unseen.obs["donor"] = "a", "b"
    fields = Fields("counts", batch="donor").read(data).fields
    unseen.layers["counts"] = x
    for how, advice in (
        (
            nullcontext(),
            ("read them with Fields(counts='counts').", "Read with unknown='allow'", "read with missing='marginalise'"),
        ),
        (
            command_line(),
            (
                "read them with --counts counts.",
                "Read with --unknown allow",
                "read with --missing marginalise if they were",
            ),
        ),
    ):
        with how:
            assert advice[0] in refusal(data)
            assert advice[1] in refusal(unseen, fields)
            assert advice[2] in refusal(data[:, 1:], fields)


# Repeated names of cells


def test_repeated_names_of_cells_are_numbered_with_a_warning():
    data = adata(counts())
    data.obs_names = ["A", "A", *data.obs_names[2:29], "A"]
    with pytest.warns(
        UserWarning, match=r"names of several cells are numbered in order of appearance .*: 'A'"
    ) as caught:
        cells = Fields().read(data)
    assert cells.names[[0, 1, 29]].tolist() == ["A", "A-1", "A-2"]
    assert caught[-1].filename == __file__


def test_something_that_is_no_matrix_is_refused():
    from pyroscvi.data.matrices import gather

    with pytest.raises(TypeError, match="the matrix of type dict cannot be read"):
        gather({})


def test_a_missing_size_factor_names_the_option_of_the_command_line():
    from pyroscvi.parts import SizeFactor

    cells = Fields().read(adata(counts()))
    with pytest.raises(ValueError, match=r"name its column, Fields\(size_factor=\.\.\.\)"):
        SizeFactor()(cells)
    with command_line(), pytest.raises(ValueError, match=r"name its column, --size-factor \.\.\."):
        SizeFactor()(cells)


def test_logits_are_beliefs_before_a_softmax():
    logits = np.array([[0.0, 1.0, -2.0], [5.0, 5.0, 5.0], [np.nan] * 3], dtype=np.float32)
    obs = pd.DataFrame(index=["a", "b", "c"])
    data = anndata.AnnData(np.ones((3, 2), dtype=np.float32), obs, obsm={"logits": logits})
    weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    read = Fields(belief="logits", logits=True).read(data).label_weights(3)
    np.testing.assert_allclose(read[:2], (weights / weights.max(1, keepdims=True))[:2], rtol=1e-6)
    assert (read[2] == 1).all()
    with pytest.raises(ValueError, match=r"of logits, say Fields\(logits=True\)"):
        Fields(belief="logits").read(data)
