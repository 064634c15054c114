"""Several AnnData read as one: genes that all have or any has, and nothing confused between them."""

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from test_data_fields import FORMS, data

from pyroscvi.data import Fields, Nearest


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
    assert (union.measured.numpy() == pd.concat(frames).notna()[list(union.genes)].to_numpy()).all()
    assert Fields(layer).read([a, b], genes="union", missing="zero").measured is None
    assert shared.measured is None
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
    cells = Fields(spatial="spatial", section="slice", graph=Nearest(2)).read([a, b])
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


@pytest.mark.parametrize("genes", ["union", "intersection"])
def test_cells_without_coordinates_have_no_neighbours(genes):
    a, b = pair()
    del b.obsm["spatial"], b.obs["slice"]
    with pytest.warns(UserWarning, match="8 of 14 cells have no coordinates"):
        cells = Fields(spatial="spatial", section="slice", graph=Nearest(2)).read([a, b], genes=genes)
    assert cells.graph.shape == (14, 14)
    assert cells.graph[6:].nnz == cells.graph[:, 6:].nnz == 0
    alone = Fields(spatial="spatial", section="slice", graph=Nearest(2)).read(a).graph
    assert (cells.graph[:6, :6] != alone).nnz == 0


def test_beliefs_that_only_some_data_sets_have():
    a, b = pair()
    del b.obsm["soft"]
    cells = Fields(belief="soft").read([a, b], genes="union")
    assert cells.levels["label"] == ("T", "B", "NK")
    torch.testing.assert_close(cells.belief[:6], torch.tensor(a.obsm["soft"].to_numpy()).float())
    assert (cells.belief[6:] == 1).all()  # nothing is known


def test_tables_with_other_columns_are_refused():
    a, b = pair()
    b.obsm["soft"] = b.obsm["soft"].rename(columns={"NK": "monocyte"})
    with pytest.raises(ValueError, match=r"obsm\['soft'\] differ: 0 has 'T', 'B', 'NK', 1 'T', 'B', 'monocyte'"):
        Fields(belief="soft").read([a, b], genes="union")
    b.obsm["spatial"] = np.ones((8, 3))
    with pytest.raises(ValueError, match=r"obsm\['spatial'\] differ"):
        Fields(spatial="spatial", section="slice").read([a, b], genes="union")


def test_what_is_not_an_anndata_is_named():
    with pytest.raises(TypeError, match="Jones: cells are read from an AnnData, not from ndarray"):
        Fields().read({"Smith": data(), "Jones": np.ones((3, 2))})
