"""Neighbours are of the same section, and minibatches contain them, so a guide reads a cell as in the whole tissue."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

import pyroscvi as ps
from pyroscvi.data import Cells, loader, stored
from pyroscvi.data.graph import nearest, neighbourhood
from pyroscvi.data.stored import Stored
from pyroscvi.guides import SpatialGNN
from pyroscvi.models import SCVI
from pyroscvi.parts.neighbours import ReadNeighbours


def tissue(n: int = 50, neighbours: int = 4, dense: bool = True, seed: int = 0) -> Cells:
    """Cells in two sections that lie on top of each other; the first gene is the number of the cell."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(2.0, (n, 5)).astype(np.float32)
    counts[:, 0] = np.arange(n)
    section = np.arange(n) % 2
    return Cells(
        torch.from_numpy(counts) if dense else sparse.csr_matrix(counts),
        {"batch": torch.from_numpy(section)},
        covariates=torch.from_numpy(counts[:, 1:2]),
        graph=nearest(rng.uniform(size=(n, 2)), neighbours, section),
        names=np.array([f"cell{i}" for i in range(n)], dtype=object),
    )


def passed(cells: Cells, rounds: int) -> torch.Tensor:
    """``rounds`` of message passing over the cells and their halo: h + sum of h / (1 + distance) over neighbours."""
    h = cells.with_halo.to(dtype=torch.float64).x
    source, target = cells.edges
    for _ in range(rounds):
        message = h[source] / (1 + cells.distances.double()).unsqueeze(-1)
        h = h + torch.zeros_like(h).index_add(0, target, message)
    return h[: len(cells)]


def edges_by_name(cells: Cells) -> set[tuple[str, str, float]]:
    names = cells.with_halo.names
    source, target = cells.edges
    return {(names[s], names[t], round(d, 6)) for s, t, d in zip(source, target, cells.distances.tolist(), strict=True)}


def test_neighbours_are_the_nearest():
    place = np.random.default_rng(0).uniform(size=(40, 3))
    graph = nearest(place, 5)
    distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    unit = np.median(np.sort(distance, 1)[:, :5])
    for n in range(40):
        assert set(graph[n].indices) == set(distance[n].argsort()[:5])
        np.testing.assert_allclose(graph[n].data, distance[n][graph[n].indices] / unit)


def test_a_turned_shifted_mirrored_or_scaled_tissue_has_the_same_graph():
    place = np.random.default_rng(1).uniform(size=(30, 2))
    turn = np.array([[np.cos(1.1), -np.sin(1.1)], [np.sin(1.1), np.cos(1.1)]])
    for moved in (place @ turn, place * [-1, 1], place + 100, place * 350):
        a, b = nearest(place, 4), nearest(moved, 4)
        assert (a.indices == b.indices).all()
        np.testing.assert_allclose(a.data, b.data, rtol=1e-9)


def test_sections_are_never_joined():
    rng = np.random.default_rng(2)
    section = rng.integers(3, size=60)
    source, target = Cells(torch.ones(60, 1), graph=nearest(rng.uniform(size=(60, 2)), 6, section)).edges
    assert len(source) == 360
    assert (section[source] == section[target]).all()


def test_a_small_section_has_the_neighbours_that_it_has():
    graph = nearest(np.arange(8.0).reshape(4, 2), 6, np.array([0, 1, 1, 2]))
    assert (graph.toarray() != 0).tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert nearest(np.zeros((1, 2))).nnz == 0


def test_coincident_cells_are_neighbours_at_no_distance_and_never_their_own():
    place = np.zeros((9, 2))
    place[6:] = [[1, 0], [0, 1], [5, 5]]
    graph = nearest(place, 3)
    assert (np.diff(graph.indptr) == 3).all()
    assert not graph.diagonal().any()
    assert all(n not in graph[n].indices for n in range(9))
    assert (graph[0].data == 0).all()
    cells = Cells(torch.arange(9.0).unsqueeze(-1), graph=graph)
    assert cells.edges.shape == (2, 27)  # an edge of no length is still an edge
    assert cells.take([0, 8]).edges.shape == (2, 6)
    first, held = cells.split(0.3)
    own = first.x[:, 0].long().tolist()
    assert first.graph.nnz == sum(source in own for n in own for source in graph[n].indices)
    assert held.edges.shape[1] >= 3 * len(held)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("hops", [1, 2, 3])
def test_a_minibatch_is_read_as_the_whole_tissue_is(hops, dense):
    cells = tissue(dense=dense)
    whole = passed(cells, hops)
    for m in cells.minibatches(7, torch.Generator().manual_seed(0), hops=hops):
        torch.testing.assert_close(passed(m, hops), whole[m.index], rtol=1e-12, atol=0)
        assert m.hops == hops
    # One round too few, and it is not.
    m = cells.take([0, 1, 2], hops=hops - 1)
    assert not torch.allclose(passed(m, hops), whole[:3])


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_a_minibatch_has_exactly_the_edges_that_rounds_need(hops):
    cells = tissue(60)
    index = torch.tensor([3, 41, 10])
    near = [set(index.tolist())]  # the nodes within 0, 1, ... hops
    for _ in range(hops):
        near.append(near[-1] | {s for n in near[-1] for s in cells.graph[n].indices})
    wanted = {(f"cell{s}", f"cell{n}") for n in near[-2] for s in cells.graph[n].indices}
    taken = cells.take(index, hops)
    edges = [edge[:2] for edge in edges_by_name(taken)]
    assert len(edges) == taken.edges.shape[1]
    assert set(edges) == wanted
    assert set(taken.halo.names) == {f"cell{n}" for n in near[-1] - near[0]}
    assert edges_by_name(taken) <= edges_by_name(cells)


def test_no_hops_need_no_neighbours():
    taken = tissue().take([4, 5], hops=0)
    assert taken.edges.shape == (2, 0)
    assert len(taken.halo) == 0
    assert taken.with_halo.x.shape == (2, 5)


def test_the_halo_has_every_field():
    cells = tissue(dense=False)
    taken = cells.take([7, 2], hops=2)
    everyone = taken.with_halo
    assert everyone.graph is everyone.halo is taken.halo.graph is taken.halo.halo is None
    for row, name in enumerate(everyone.names):
        n = int(name.removeprefix("cell"))
        assert torch.equal(everyone.x[row], cells.x[n])
        assert everyone.batch[row] == cells.batch[n]
        assert torch.equal(everyone.covariates[row], cells.covariates[n])


@pytest.mark.parametrize("hops", [1, 2])
def test_a_take_of_a_take_is_a_take(hops):
    cells = tissue()
    once = cells.take([20, 3, 11], hops)
    twice = cells.take([9, 20, 3, 31, 11], hops).take([1, 2, 4], hops)
    assert twice.index.tolist() == once.index.tolist()
    assert edges_by_name(twice) == edges_by_name(once)
    torch.testing.assert_close(passed(twice, hops), passed(cells, hops)[[20, 3, 11]], rtol=1e-12, atol=0)


def test_a_take_knows_how_many_rounds_it_carries():
    cells = tissue()
    assert cells.hops is None
    assert cells.take([0], hops=2).hops == 2
    assert cells.take([0, 1, 2], hops=1).take([0], hops=3).hops == 1
    assert cells.subset([0, 1]).hops is None
    assert cells.subset([0, 1]).take([0], hops=3).hops == 3
    assert cells.split(0.5)[0].hops is None


def test_an_encoder_refuses_cells_that_carry_too_few_rounds():
    cells = tissue()
    encoder = ReadNeighbours(hops=2).sized(cells.dims).eval()
    with torch.no_grad():
        whole = encoder(cells)
        torch.testing.assert_close(encoder(cells.take([3, 8], hops=2)), whole[[3, 8]], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(encoder(cells.subset([3, 8])), whole[[3, 8]], rtol=1e-5, atol=1e-6)
        with pytest.raises(ValueError, match="neighbours up to 1 hops away, but the encoder reads 2 hops"):
            encoder(cells.take([3, 8], hops=1))


def test_held_out_cells_see_all_their_neighbours_and_training_cells_none_of_theirs():
    cells = tissue(dense=False)
    train, held = cells.split(0.2, by="batch", seed=1)
    numbers = held.x[:, 0].long()
    for hops in (1, 2, 3):
        torch.testing.assert_close(passed(held, hops), passed(cells, hops)[numbers], rtol=1e-12, atol=0)
        for m in held.minibatches(3, hops=hops):
            torch.testing.assert_close(passed(m, hops), passed(held, hops)[m.index], rtol=1e-12, atol=0)
    assert train.halo is None
    assert not {s for s, _, _ in edges_by_name(train)} & set(held.names)
    inside = {edge for edge in edges_by_name(cells) if edge[0] in train.names and edge[1] in train.names}
    assert edges_by_name(train) == inside


def test_the_halo_is_moved_and_converted_with_its_cells():
    taken = tissue().take([1, 2]).to("meta", torch.float64)
    assert taken.halo.x.device.type == taken.edges.device.type == taken.distances.device.type == "meta"
    assert taken.distances.dtype == taken.with_halo.x.dtype == torch.float64


@pytest.mark.parametrize("hops", [1, 2])
def test_a_cell_may_be_chosen_twice(hops):
    cells = tissue()
    index = [4, 1, 1, 30, 4]
    torch.testing.assert_close(passed(cells.take(index, hops), hops), passed(cells, hops)[index], rtol=1e-12, atol=0)


def test_neighbourhood_of_everything_is_the_graph():
    graph = tissue().graph
    same, outside = neighbourhood(graph, np.arange(50), 1)
    assert len(outside) == 0
    assert (same != graph).nnz == 0
    assert same.nnz == graph.nnz


def test_no_edges_is_no_graph():
    cells = replace(tissue(), graph=None)
    assert cells.edges.shape == (2, 0)
    assert cells.take([1]).halo is None


def test_a_guide_that_reads_neighbours_refuses_cells_without_a_graph(with_covariates):
    lonely = replace(
        with_covariates,
        covariates=None,
        graph=nearest(np.zeros((len(with_covariates), 2)), section=np.arange(len(with_covariates))),
    )
    for cells in (replace(with_covariates, covariates=None), lonely):
        with pytest.raises(
            ValueError, match=r"SpatialGNN reads a cell with its neighbours, .*Fields\(spatial=\.\.\.\)"
        ):
            ps.fit(SCVI(latent=2), SpatialGNN(), cells, epochs=1, progress=False)


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    """Two sections of 300 cells in memory and on disk, of which a buffer has 100."""
    monkeypatch.setattr(stored, "BUFFER", 100)
    data = ps.data.simulated(cells=600, genes=8, sections=2)
    order = np.lexsort([*(data.obsm["spatial"] * 4).astype(int).T, data.obs["section"].cat.codes])
    data = data[order].copy()  # as instruments write them: cells of one field of view together
    data.write_h5ad(tmp_path / "tissue.h5ad")
    fields = ps.Fields(spatial="spatial", section="section")
    return fields.read(data), fields.open(tmp_path / "tissue.h5ad")


@torch.no_grad()
def test_minibatches_from_disk_are_read_as_the_whole_tissue_is(on_disk, monkeypatch):
    cells, opened = on_disk
    guide = SpatialGNN().sized(SCVI(latent=2).sized(cells.dims), cells).eval()
    whole, seen, read = guide.posteriors(cells)["z"].mean, [], []
    before = Stored.read
    monkeypatch.setattr(Stored, "read", lambda self, *index: read.append(len(self.rows)) or before(self, *index))
    monkeypatch.setattr(loader, "TILE", 8.0)
    for m in opened.minibatches(25, torch.Generator().manual_seed(0), hops=1):
        torch.testing.assert_close(guide.posteriors(m)["z"].mean, whole[m.index], rtol=1e-5, atol=1e-5)
        seen.append(m.index)
    assert torch.cat(seen).sort().values.tolist() == list(range(600))
    assert sum(read) < 2 * 600  # neighbours are mostly in the buffer
    later = opened.minibatches(25, torch.Generator().manual_seed(0), hops=1, start=5)
    assert [m.index.tolist() for m in later] == [index.tolist() for index in seen[5:]]


def test_a_fit_reads_tissue_from_disk(on_disk):
    _, opened = on_disk
    fit = ps.fit(SCVI(latent=2), SpatialGNN(), opened, epochs=1, validation=0.1, progress=False)
    assert np.isfinite(fit.history["elbo_held_out"]).all()
    assert fit.latent(opened).shape == (600, 2)
