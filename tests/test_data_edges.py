"""Which cells of a tissue are neighbours: from coordinates, or given in obsp."""

import json
import re

import numpy as np
import pytest
from scipy import sparse

from pyroscvi.cli.grouped import plain_graph
from pyroscvi.data import Delaunay, Fields, Given, Nearest, Radius, simulated
from pyroscvi.data.edges import declared
from pyroscvi.data.graph import connected

PLACE = np.random.default_rng(0).uniform(size=(40, 2))
DISTANCE = np.linalg.norm(PLACE[:, None] - PLACE[None], axis=-1)


def tissue(cells=30, **options):
    return simulated(cells=cells, genes=8, sections=2, **options)


def with_graph(connectivities=True, distances=True):
    """Two sections with the graph that squidpy would write, and the distances that it means."""
    adata = tissue()
    section = adata.obs["section"].cat.codes.to_numpy()
    graph = connected(Nearest(3), adata.obsm["spatial"], section)
    if distances:
        adata.obsp["spatial_distances"] = graph * 7.0
    if connectivities:
        joined = graph.copy()
        joined.data[:] = 1
        adata.obsp["spatial_connectivities"] = joined
    return adata, graph


def test_radius_joins_all_cells_up_to_a_distance():
    graph = connected(Radius(0.2), PLACE)
    wanted = (DISTANCE <= 0.2) & ~np.eye(40, dtype=bool)
    assert (graph.toarray() > 0).tolist() == wanted.tolist()
    np.testing.assert_allclose(graph.data * np.median(DISTANCE[wanted]), DISTANCE[graph.nonzero()])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_delaunay_joins_cells_whose_circle_holds_no_other_cell(dimensions):
    place = np.random.default_rng(1).uniform(size=(25, dimensions))
    graph = connected(Delaunay(), place)
    assert (graph != graph.T).nnz == 0
    nearest = connected(Nearest(1), place)  # the nearest cell is always a neighbour
    assert all(graph[n, nearest[n].indices[0]] > 0 for n in range(25))
    if dimensions == 2:  # a planar graph of n cells, h of them on its border, has 3n - 3 - h edges
        from scipy.spatial import ConvexHull

        assert graph.nnz / 2 == 3 * 25 - 3 - len(ConvexHull(place).vertices)


def test_delaunay_keeps_coincident_cells_and_small_sections():
    place = np.vstack([PLACE, PLACE[:2]])
    graph = connected(Delaunay(), place)
    stored = sparse.csr_matrix((np.ones(graph.nnz), graph.indices, graph.indptr), graph.shape)
    assert stored[40].nnz + stored[0].nnz > 0
    assert stored[0, 40] == stored[40, 0] == stored[1, 41] == 1
    assert connected(Delaunay(), PLACE[:3]).nnz == 6
    assert connected(Delaunay(), PLACE[:1]).nnz == 0
    with pytest.raises(ValueError, match=r"9 cells have no Delaunay triangulation.*on one line"):
        connected(Delaunay(), np.stack([np.arange(9.0), np.arange(9.0)], 1))


@pytest.mark.parametrize("graph", [Radius(5.0), Delaunay(), Nearest(4)])
def test_sections_are_never_joined(graph):
    section = np.arange(40) % 2
    target, source = connected(graph, PLACE, section).nonzero()
    assert (section[target] == section[source]).all()
    assert len(target) > 40


def test_cells_without_neighbours_and_cells_in_one_place_are_kept_with_a_warning():
    adata = tissue()
    adata.obsm["spatial"][3] = [50.0, 50.0]
    with pytest.warns(UserWarning, match="1 of 30 cells with coordinates have no neighbours; they are kept") as caught:
        cells = Fields(spatial="spatial", section="section", graph=Radius(2.0)).read(adata)
    assert caught[0].filename == __file__
    assert cells.graph[3].nnz == 0
    adata.obsm["spatial"][3:5] = adata.obsm["spatial"][2]
    with pytest.warns(UserWarning, match="2 of 30 cells lie exactly where another cell lies; they are kept"):
        assert len(Fields(spatial="spatial", section="section").read(adata)) == 30


def test_a_graph_that_obsp_has_is_read_as_it_is():
    adata, graph = with_graph()
    cells = Fields(graph=Given(), section="section").read(adata)
    assert (cells.graph.nonzero()[0] == graph.nonzero()[0]).all()
    np.testing.assert_allclose(cells.graph.data * np.median(graph.data), graph.data)
    alone, _ = with_graph(connectivities=False)
    assert (Fields(graph=Given()).read(alone).graph != cells.graph).nnz == 0
    unweighted, _ = with_graph(distances=False)
    assert set(Fields(graph=Given()).read(unweighted).graph.data) == {1.0}


def test_a_bad_graph_in_obsp_is_refused():
    adata, _ = with_graph()
    with pytest.raises(
        KeyError, match=r"neither of .mine_connectivities., .mine_distances.; it has .*from coordinates"
    ):
        Fields(graph=Given("mine")).read(adata)
    adata.obsp["spatial_distances"].data[2] = -1.0
    wanted = r"obsp\['spatial_distances'\] must be finite and not negative: 1 of 90 values are not, the first is -1.0"
    with pytest.raises(ValueError, match=wanted):
        Fields(graph=Given()).read(adata)
    adata.obsp["spatial_distances"].data[2] = np.nan
    with pytest.raises(ValueError, match="the first is nan, of cell 'cell0'"):
        Fields(graph=Given()).read(adata)
    adata, _ = with_graph()
    adata.obsp["spatial_connectivities"] = sparse.csr_matrix(np.ones((30, 30)))
    with pytest.raises(ValueError, match="450 of 870 edges join cells of different sections, the first 'cell0'"):
        Fields(graph=Given(), section="section").read(adata)


def test_graphs_are_plain_data_and_words_of_the_command_line():
    for words, graph in {"nearest:4": Nearest(4), "radius:50": Radius(50.0), "delaunay": Delaunay()}.items():
        assert declared(json.loads(json.dumps(plain_graph(words)))) == graph
        assert declared(graph) is graph
    fields = Fields(spatial="spatial", graph=Given("mine"))
    assert Fields.from_dict(json.loads(json.dumps(fields.to_dict()))) == fields
    assert fields != Fields(spatial="spatial")
    with pytest.raises(TypeError, match=re.escape("graph must be a Graph such as Nearest(6)")):
        Fields(spatial="spatial", graph=6)
