"""What goes wrong with the counts that people bring, and what they get: a test or a few for every row of the list."""

import re
from collections.abc import Callable

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from pyroscvi.data import Fields, Nearest, checks

FORMS: dict[str, Callable] = {"dense": np.array, "csr": sparse.csr_matrix, "csc": sparse.csc_array}


def counts(n: int = 30, g: int = 8) -> np.ndarray:
    return np.random.default_rng(0).poisson(2.0, (n, g)).astype(np.float64) + np.eye(n, g)


def adata(x: np.ndarray, form: str = "dense", **layers: np.ndarray) -> AnnData:
    n, g = x.shape
    obs, var = pd.DataFrame(index=[f"cell{i}" for i in range(n)]), pd.DataFrame(index=[f"gene{i}" for i in range(g)])
    return AnnData(FORMS[form](x), obs=obs, var=var, layers=layers)


def refusal(data: AnnData, fields: Fields | None = None, **options: str) -> str:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # what it says is what every test is about
        (fields or Fields()).read(data, **options)
    return str(refused.value)


# Negative, NaN, infinite or fractional counts


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("value", "kind"),
    [(-1.0, "negative"), (np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite"), (0.5, "fractional")],
)
def test_one_bad_value_anywhere_is_found(form, value, kind):
    for row, column in ((0, 0), (29, 7), (13, 5)):
        x = counts()
        x[row, column] = value
        message = refusal(adata(x, form))
        assert f"X holds values that are not counts: 1 {kind}." in message
        assert f"The first is {value}, of gene 'gene{column}' in cell 'cell{row}'." in message


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [1, 7, 1 << 22])
def test_all_bad_values_are_counted_and_the_first_is_named(form, block, monkeypatch):
    monkeypatch.setattr(checks, "VALUES_AT_ONCE", block)  # the scan goes in blocks: the tally runs over all of them
    x = counts()
    x[20, 3], x[7, 6], x[7, 2], x[25] = np.nan, -2, 0.25, np.inf
    x[29, :3] = [-1, -1.5, 3.5]
    message = refusal(adata(x, form))
    assert "1 NaN, 8 infinite, 3 negative, 2 fractional." in message
    assert "The first is 0.25, of gene 'gene2' in cell 'cell7'." in message


def test_integers_are_scanned_too():
    x = counts().astype(np.int64)
    x[4, 4] = -3
    assert "1 negative. The first is -3, of gene 'gene4' in cell 'cell4'" in refusal(adata(x))


def test_a_bad_value_is_found_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("pyroscvi.data.matrices.ROWS", 4)
    for form in ("dense", "csr", "csc"):
        x = counts()
        x[28, 1] = 0.5
        stored = adata(x, form)
        stored.X = sparse.csc_matrix(x) if form == "csc" else stored.X
        stored.write_h5ad(tmp_path / f"{form}.h5ad")
        backed = anndata.read_h5ad(tmp_path / f"{form}.h5ad", backed="r")
        assert "'gene1' in cell 'cell28'" in refusal(backed)
        backed.file.close()


def test_only_genes_that_are_read_must_be_counts():
    x = counts()
    x[:, 3] = 0.5
    assert Fields(genes=("gene1", "gene2")).read(adata(x)).x.shape == (30, 2)
    assert "gene 'gene3' in cell 'cell0'" in refusal(adata(x), Fields(genes=("gene1", "gene3")))


def test_text_is_no_count():
    data = adata(counts())
    data.layers["words"] = np.full((30, 8), "many", dtype=object)
    with pytest.raises(TypeError, match=r"layer 'words' holds values of type object.*Fields\(counts=None\)"):
        Fields("words").read(data)


def test_booleans_are_counts():
    assert Fields().read(adata(counts() > 1)).x.unique().tolist() == [0, 1]


# Normalised or scaled X


@pytest.mark.parametrize("form", FORMS)
def test_normalised_x_names_the_layers_that_hold_counts(form):
    x = counts()
    data = adata(np.log1p(x), form, counts=x, spliced=sparse.csr_matrix(x), scaled=x - x.mean(0))
    message = refusal(data)
    assert "fractional" in message
    assert "There are counts in 'counts', 'spliced': read them with Fields(counts='counts') or with" in message


def test_scaled_x_is_negative_and_fractional():
    x = counts()
    said = refusal(adata((x - x.mean(0)) / x.std(0), counts=x))
    assert "negative" in said
    assert "fractional" in said
    assert "Fields(counts='counts')" in said


def test_a_normalised_layer_is_sent_back_to_x():
    x = counts()
    assert "There are counts in 'X': read them with Fields(counts=None)." in refusal(
        adata(x, logs=np.log1p(x)), Fields("logs")
    )


def test_counts_may_be_in_raw():
    x = counts()
    data = adata(x, "csr")
    data.raw = data.copy()
    data.X = np.log1p(x)
    assert "There are counts in raw: read adata.raw.to_adata() instead." in refusal(data)
    assert torch.equal(Fields().read(data.raw.to_adata()).x, torch.from_numpy(x).float())


def test_no_layer_is_suggested_if_none_holds_counts():
    x = counts()
    almost = x.copy()
    almost[29, 7] = 0.5  # every value of the layer is looked at, too
    message = refusal(adata(np.log1p(x), almost=almost, nothing=np.zeros_like(x)))
    assert "No other layer holds counts" in message
    assert "Fields(" not in message


def test_an_empty_x_names_the_layers_that_hold_counts():
    x = counts()
    data = AnnData(layers={"counts": x}, obs=pd.DataFrame(index=[str(i) for i in range(30)]))
    assert "X is empty. There are counts in 'counts': read them with Fields(counts='counts')" in refusal(data)
    assert Fields("counts").read(data).x.sum() == x.sum()


# Counts above 2^24


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("largest", "dtype"), [(2**24, torch.float32), (2**24 + 1, torch.float64), (2**53, torch.float64)]
)
def test_counts_that_float32_cannot_hold_are_float64(form, largest, dtype):
    x = counts().astype(np.int64)
    x[3, 3] = largest
    data = adata(x, form)
    data.obs["age"] = np.arange(30.0)
    cells = Fields(covariates="age", size_factor="age", genes=None).read(data[1:])
    assert cells.dtype == cells.x.dtype == cells.covariates.dtype == cells.size_factor.dtype == dtype
    assert int(cells.x[2, 3]) == largest
    assert cells.take([2]).x.dtype == dtype
    if largest == 2**24 + 1:
        assert cells.library[2, 0] == x[3].sum()


def test_counts_that_no_float_holds_are_refused():
    x = counts().astype(np.int64)
    x[3, 3] = 2**53 + 1
    assert "9007199254740993 is more than float64 holds exactly" in refusal(adata(x))


# No cells, one cell


def test_no_cells_and_no_genes_are_refused():
    assert refusal(adata(counts())[:0]) == "nothing to read: 0 cells and 8 genes"
    assert refusal(adata(counts())[:, :0]) == "nothing to read: 30 cells and 0 genes"


@pytest.mark.parametrize("form", FORMS)
def test_one_cell_is_read(form):
    data = adata(counts() + 1, form)[3]
    data.obs = pd.DataFrame({"batch": ["a"], "age": [3.0]}, index=data.obs_names)
    cells = Fields(batch="batch", covariates="age").read(data)
    assert cells.x.shape == (1, 8)
    assert cells.dims.log_size[0, 1] == 0
    assert cells.covariates.tolist() == [[0.0]]
    assert [len(m) for m in cells.minibatches(4)] == [1]


# Genes and cells without counts


@pytest.mark.parametrize("form", FORMS)
def test_genes_without_counts_are_kept_and_listed_once(form):
    x = counts()
    x[:, [2, 5]] = 0
    with pytest.warns(
        UserWarning, match="2 of 8 genes have no count in any cell; they are kept: 'gene2', 'gene5'"
    ) as caught:
        cells = Fields().read(adata(x, form))
    ours = [warning for warning in caught if warning.category is UserWarning]
    assert len(ours) == 1
    assert ours[0].filename == __file__
    assert cells.x.shape == (30, 8)
    cells.fields.read(adata(x, form)[:3])  # does not warn: a few new cells need not have every gene


def test_a_long_list_is_cut():
    x = np.zeros((3, 40))
    x[:, 0] = 1
    with pytest.warns(UserWarning, match=r"39 of 40 .*: 'gene1', 'gene2',.* 'gene10' and 29 more$"):
        Fields().read(adata(x))


@pytest.mark.parametrize("form", FORMS)
def test_cells_without_counts_are_an_error_or_dropped_and_listed(form):
    x = counts()
    x[[4, 11]] = 0
    data = adata(x, form)
    data.obs["batch"] = [f"b{i}" for i in range(30)]
    data.obsm["place"] = np.arange(60.0).reshape(30, 2)
    message = refusal(data)
    assert "2 of 30 cells have no counts: 'cell4', 'cell11'. " in message
    assert "or read with empty='drop'" in message
    fields = Fields(batch="batch", spatial="place", graph=Nearest(2))
    with pytest.warns(UserWarning, match="2 of 30 cells have no counts: 'cell4', 'cell11'. They are dropped") as caught:
        cells = fields.read(data, empty="drop")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    kept = [i for i in range(30) if i not in (4, 11)]
    assert cells.names.tolist() == [f"cell{i}" for i in kept]
    assert torch.equal(cells.x, torch.from_numpy(x[kept]).float())
    assert [cells.levels["batch"][code] for code in cells.batch] == [f"b{i}" for i in kept]
    assert cells.graph.shape == (28, 28)


def test_cells_may_have_counts_of_other_genes_only():
    x = counts()
    x[4, :3] = 0
    x[:4, :3] += 1
    assert Fields().read(adata(x))
    few = Fields(genes=("gene0", "gene1", "gene2"))
    assert "'cell4'" in refusal(adata(x)[:5], few)


def test_not_a_single_cell_with_counts_is_an_error_even_when_dropping():
    assert "3 of 3 cells have no counts" in refusal(adata(np.zeros((3, 2))), empty="drop")


def test_stored_zeros_are_no_counts():
    stored = sparse.csr_matrix((np.array([0.0, 1.0]), np.array([0, 1]), np.array([0, 1, 2])), shape=(2, 2))
    assert "1 of 2 cells have no counts: '0'" in refusal(AnnData(stored))


# Covariates, sizes and places


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_covariates_are_finite(value):
    data = adata(counts())
    data.obs["age"] = np.arange(30.0)
    data.obs.loc["cell7", "age"] = value
    message = refusal(data, Fields(covariates="age"))
    assert message == f"covariate 'age' must be finite: 1 of 30 values are not, the first is {value} in cell 'cell7'"


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -2.0])
def test_sizes_are_positive_and_finite(value):
    data = adata(counts())
    data.obs["size"] = np.arange(30.0) + 1
    data.obs.loc["cell7", "size"] = value
    wanted = "finite" if not np.isfinite(value) else "positive"
    message = refusal(data, Fields(size_factor="size"))
    assert (
        message == f"size factor 'size' must be {wanted}: 1 of 30 values are not, the first is {value} in cell 'cell7'"
    )


def test_places_are_finite():
    data = adata(counts())
    data.obsm["place"] = np.zeros((30, 2))
    data.obsm["place"][3, 1] = np.nan
    message = refusal(data, Fields(spatial="place"))
    assert (
        message
        == "coordinates (obsm['place']) must be finite: 1 of 60 values are not, the first is nan in cell 'cell3'"
    )


def test_a_section_is_never_missing():
    data = adata(counts())
    data.obsm["place"] = np.random.default_rng(0).uniform(size=(30, 2))
    data.obs["slice"] = ["a"] * 29 + [None]
    message = refusal(data, Fields(spatial="place", section="slice"))
    assert "section (obs['slice']): 1 of 30 values are missing, the first in cell 'cell29'. Fill them in" in message
    assert "unknown" not in message  # which does not apply to sections


# Extreme values


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1e155, r"covariate 'age' must be between -1e\+38 and 1e\+38, which single precision holds: 1 of 30"),
        (-1e300, "the first is -1e\\+300 in cell 'cell7'"),
        (1e-200, "covariate 'age' varies by 1e-200 only, too little for single precision: rescale it"),
    ],
)
def test_covariates_that_single_precision_cannot_hold_are_refused(value, message):
    data = adata(counts())
    data.obs["age"] = 0.0
    data.obs.loc["cell7", "age"] = value
    with pytest.raises(ValueError, match=message):
        Fields(covariates="age").read(data)


def test_complex_covariates_are_refused():
    data = adata(counts())
    data.obs["age"] = np.arange(30) + 1j
    with pytest.raises(TypeError, match="covariate 'age' does not hold numbers but complex128"):
        Fields(covariates="age").read(data)


def test_covariates_far_from_those_of_training_are_refused():
    data = adata(counts())
    data.obs["age"] = np.arange(30.0)
    fields = Fields(covariates="age").read(data).fields
    data.obs["age"] = 1e30
    with pytest.raises(ValueError, match="covariate") as caught:
        fields.read(data)
    assert str(caught.value) == (
        "covariate 'age' must be at most 1,000,000 standard deviations away from 14.5, its mean in training: "
        "30 of 30 values are not, the first is 1e+30 in cell 'cell0'"
    )


@pytest.mark.parametrize("value", [1e-50, 1e30, 1e300])
def test_extreme_sizes_are_refused(value):
    data = adata(counts())
    data.obs["size"] = np.r_[np.ones(29), value]
    with pytest.raises(ValueError, match=r"size factor 'size' must be between .* the first is 1e.* in cell 'cell29'"):
        Fields(size_factor="size").read(data)


@pytest.mark.parametrize("value", [1e-50, 1e300])
def test_extreme_beliefs_are_refused(value):
    data = adata(counts())
    data.obsm["soft"] = np.full((30, 3), value)
    with pytest.raises(ValueError, match=r"the sum of a row of belief \(obsm\['soft'\]\) must be between 1e-20 and"):
        Fields(belief="soft").read(data)


@pytest.mark.parametrize("neighbours", [0, -1, 2.5, "6", True])
def test_neighbours_are_a_positive_whole_number(neighbours):
    with pytest.raises(
        ValueError, match=re.escape(f"Nearest: k must be a whole number of 1 or more, not {neighbours!r}")
    ):
        Nearest(neighbours)
