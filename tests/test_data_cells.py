"""Cells: rows are taken, shuffled and split without losing, doubling or densifying any."""

from collections import Counter

import numpy as np
import pyro
import pytest
import torch
from scipy import sparse

from pyroscvi.data import Cells


def counted(n: int = 23, g: int = 7, dense: bool = True, seed: int = 0) -> Cells:
    """Cells whose every field tells which row it is."""
    counts = np.random.default_rng(seed).poisson(0.7, (n, g)).astype(np.float32)
    counts[:, 0] = np.arange(n)
    return Cells(
        torch.from_numpy(counts) if dense else sparse.csr_matrix(counts),
        {"batch": torch.arange(n) % 2, "label": torch.arange(n) % 3 - 1},
        covariates=torch.arange(n).float().unsqueeze(-1),
        belief=torch.arange(n).float().unsqueeze(-1) + torch.tensor([1.0, 2.0]),
        size_factor=torch.arange(n) + 1.0,
        levels={"batch": ("a", "b"), "label": ("B", "T")},
        names=np.array([f"cell{i}" for i in range(n)], dtype=object),
    )


def rows(cells: Cells) -> list[int]:
    return cells.x[:, 0].long().tolist()


def assert_consistent(cells: Cells) -> None:
    """Every field of every row belongs to the same cell."""
    row = cells.x[:, 0]
    assert cells.batch.tolist() == (row % 2).long().tolist()
    assert cells.label.tolist() == (row % 3 - 1).long().tolist()
    assert cells.covariates[:, 0].tolist() == row.tolist()
    assert cells.belief[:, 1].tolist() == (row + 2).tolist()
    assert cells.size_factor.tolist() == (row + 1).tolist()
    assert cells.names.tolist() == [f"cell{i}" for i in rows(cells)]


@pytest.mark.parametrize("dense", [True, False])
def test_take_keeps_every_field_of_a_row_together(dense):
    cells = counted(dense=dense)
    taken = cells.take(torch.tensor([5, 0, 22]))
    assert rows(taken) == [5, 0, 22]
    assert_consistent(taken)
    assert taken.index.tolist() == [5, 0, 22]
    assert taken.total == 23
    again = taken.take(torch.tensor([2, 1]))
    assert rows(again) == again.index.tolist() == [22, 0]
    assert again.total == 23
    own = taken.subset(torch.tensor([2, 1]))
    assert own.index is None
    assert own.total is None
    assert_consistent(own)


def test_rows_are_numbers_or_a_mask():
    cells = counted()
    for index in ([1, 3], np.array([1, 3]), torch.tensor([1, 3]), slice(1, 4, 2), torch.arange(23) % 22 == 1, [1, -20]):
        wanted = [1, 3] if not torch.is_tensor(index) or index.dtype != torch.bool else [1]
        assert rows(cells.take(index)) == wanted
    with pytest.raises(IndexError):
        cells.take([23])


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 15, 16, 17])
def test_each_cell_comes_exactly_once_an_epoch(n, dense):
    cells = counted(n, dense=dense)
    generator = torch.Generator().manual_seed(3)
    epochs = [list(cells.minibatches(8, generator)) for _ in range(2)]
    for minibatches in epochs:
        assert [len(m) for m in minibatches] == [8] * (n // 8) + [n % 8] * (n % 8 > 0)
        assert Counter(row for m in minibatches for row in rows(m)) == Counter(range(n))
        for m in minibatches:
            assert_consistent(m)
            assert m.index.tolist() == rows(m)
    if n > 7:
        assert [rows(m) for m in epochs[0]] != [rows(m) for m in epochs[1]]


def test_minibatches_without_a_generator_come_in_order():
    assert [rows(m) for m in counted(5).minibatches(2)] == [[0, 1], [2, 3], [4]]


def test_minibatches_of_a_seed_are_the_same_again():
    def order():
        return [rows(m) for m in counted().minibatches(4, torch.Generator().manual_seed(5))]

    assert order() == order()


def test_the_whole_is_never_dense(monkeypatch):
    cells = counted(40, dense=False)
    tallest = []
    dense = sparse.csr_matrix.toarray
    monkeypatch.setattr(
        sparse.csr_matrix, "toarray", lambda self, *a, **k: tallest.append(self.shape[0]) or dense(self, *a, **k)
    )
    train, held = cells.split(0.2)
    _ = cells.dims, train.dims, cells.library, repr(cells), held.to("cpu", torch.float64)
    for m in train.minibatches(8, torch.Generator().manual_seed(0)):
        assert sparse.issparse(m.counts)
        _ = m.library
        assert not tallest
    for m in train.minibatches(8):
        _ = m.x
    assert tallest == [8, 8, 8, 8]


def test_dense_and_sparse_are_the_same_cells():
    dense, csr = counted(), counted(dense=False)
    assert torch.equal(dense.x, csr.x)
    assert torch.equal(dense.library, csr.library)
    assert torch.equal(dense.dims.profile, csr.dims.profile)
    assert torch.equal(dense.dims.log_size, csr.dims.log_size)
    assert (dense.dims.levels, dense.dims.genes, dense.dims.covariates) == ({"batch": 2, "label": 2}, 7, 1)
    assert (csr.dims.levels, csr.dims.genes, csr.dims.covariates) == ({"batch": 2, "label": 2}, 7, 1)


@pytest.mark.parametrize("dense", [True, False])
def test_totals_go_on_counting_past_2_to_the_24(dense):
    # In float32, 2^24 + 1 + 1 + 1 is 2^24.
    counts = np.ones((4, 4), dtype=np.float32)
    counts[0, 0] = 2**24
    cells = Cells(torch.from_numpy(counts) if dense else sparse.csr_matrix(counts), dtype=torch.float64)
    assert cells.library[:, 0].tolist() == [2**24 + 3, 4, 4, 4]
    moments = np.log([2**24 + 3, 4, 4, 4])
    torch.testing.assert_close(cells.dims.log_size, torch.tensor([[moments.mean(), moments.var()]]).float())
    assert cells.dims.profile[0].item() == pytest.approx((2**24 + 4) / (2**24 + 4 + 15), rel=1e-7)


def test_dims_are_the_moments_of_each_batch():
    cells = Cells(torch.tensor([[1.0, 1], [3, 5], [2, 0], [0, 0]]), {"batch": torch.tensor([0, 0, 1, -1])})
    log = np.log([2, 8, 2])
    wanted = torch.tensor([[log[:2].mean(), log[:2].var()], [log[2], 0]]).float()
    torch.testing.assert_close(cells.dims.log_size, wanted)
    torch.testing.assert_close(cells.dims.profile, torch.tensor([7.0, 7.0]) / 14)
    with pytest.raises(KeyError, match=r"no categorical field 'donor'.*'batch'"):
        cells.dims.count("donor")


def test_a_minibatch_knows_levels_that_none_of_its_cells_has():
    cells = Cells(torch.ones(4, 2), {"batch": torch.tensor([0, 1, 2, 0])}, belief=torch.ones(4, 5))
    assert cells.take([0]).dims.levels == {"batch": 3, "label": 5}
    assert cells.levels["batch"] == ("0", "1", "2")
    named = Cells(
        torch.ones(4, 2), {"batch": torch.zeros(4).long(), "drug": torch.arange(4)}, levels={"batch": ("a", "b")}
    )
    assert named.take([0]).dims.levels == {"batch": 2, "drug": 4}


@pytest.mark.parametrize("n", [10, 11, 23, 57])
@pytest.mark.parametrize("fraction", [0.1, 1 / 3, 0.5, 0.9])
def test_a_split_is_disjoint_and_complete(n, fraction):
    first, second = counted(n).split(fraction, seed=2)
    assert sorted(rows(first) + rows(second)) == list(range(n))
    assert abs(len(second) - fraction * n) < 1
    for side in (first, second):
        assert_consistent(side)
        assert side.index is None
        assert side.total is None


def test_a_split_is_stratified():
    batch = torch.tensor([0] * 50 + [1] * 30 + [2] * 4 + [-1] * 16)
    cells = Cells(torch.arange(100.0).unsqueeze(-1), {"batch": batch}, levels={"batch": ("a", "b", "c")})
    for seed in range(20):
        _, held = cells.split(0.1, by="batch", seed=seed)
        assert len(held) == 10
        held_by_batch = Counter(held.batch.tolist())
        for level, size in ((0, 50), (1, 30), (2, 4), (-1, 16)):
            assert abs(held_by_batch[level] - 0.1 * size) < 1


@pytest.mark.parametrize(("n", "fraction"), [(10, 0.3), (11, 0.1), (5, 0.1), (5, 0.9), (7, 0.5)])
def test_a_split_chooses_every_cell_alike(n, fraction):
    batch = torch.tensor([0] * (n - 1) + [1])  # alone in its batch, a cell is no more and no less likely to be held out
    cells = Cells(torch.arange(float(n)).unsqueeze(-1), {"batch": batch})
    times = Counter(row for seed in range(600) for row in rows(cells.split(fraction, by="batch", seed=seed)[1]))
    share = min(max(fraction, 1 / n), 1 - 1 / n)  # neither side is left empty
    assert all(abs(times[row] - 600 * share) < 5 * np.sqrt(600 * share * (1 - share)) for row in range(n)), times


def test_a_split_is_its_seeds():
    def held(seed):
        return rows(counted(50).split(0.2, by="label", seed=seed)[1])

    assert held(1) == held(1)
    assert held(1) != held(2)


def test_splits_that_are_impossible_are_errors():
    with pytest.raises(ValueError, match="between 0 and 1"):
        counted().split(1.0)
    with pytest.raises(ValueError, match="leaves one side empty"):
        counted(1).split(0.5)
    with pytest.raises(KeyError, match=r"no categorical field 'donor'.*batch"):
        counted().split(0.5, by="donor")
    with pytest.raises(ValueError, match="at least one cell"):
        next(counted().minibatches(0))


def test_the_plate_makes_a_minibatch_stand_for_the_whole():
    def program(cells):
        with cells.plate():
            pyro.sample("z", pyro.distributions.Normal(0, 1))

    trace = pyro.poutine.trace(program).get_trace(counted(23).take([4, 9]))
    assert trace.nodes["z"]["scale"] == 23 / 2
    assert trace.nodes["cells"]["value"].tolist() == [4, 9]
    whole = pyro.poutine.trace(program).get_trace(counted(23))
    assert whole.nodes["z"]["scale"] == 1
    assert whole.nodes["cells"]["value"].tolist() == list(range(23))


def test_label_weights_are_one_hot_for_known_labels_and_ones_otherwise():
    cells = Cells(torch.ones(3, 2), {"label": torch.tensor([1, -1, 0])})
    assert cells.label_weights(3).tolist() == [[0, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert Cells(torch.ones(2, 2)).label_weights(2).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("dense", [True, False])
def test_to_changes_precision_everywhere_and_nothing_else(dense):
    cells = counted(dense=dense).take([3, 1, 2])
    double = cells.to("cpu", torch.float64)
    for real in (
        double.x,
        double.library,
        double.covariates,
        double.belief,
        double.size_factor,
        double.label_weights(2),
    ):
        assert real.dtype == torch.float64
    assert_consistent(double)
    assert double.batch.dtype == torch.long
    assert double.index.tolist() == [3, 1, 2]
    assert double.total == 23
    assert cells.x.dtype == torch.float32
    assert cells.to("meta").x.device.type == "meta"
    assert cells.to("meta").dtype == torch.float32


def test_global_generators_are_left_alone():
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    cells = counted(dense=False)
    cells.split(0.3, by="batch")
    list(cells.minibatches(4, torch.Generator().manual_seed(1)))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_whole_levels_are_on_one_side_of_a_split():
    cells = counted(100)
    donor = [f"donor{n % 7}" for n in range(100)]
    for seed in range(20):
        seen, held = cells.split(0.3, groups=donor, seed=seed)
        theirs, others = ({donor[row] for row in rows(side)} for side in (held, seen))
        assert not theirs & others
        assert len(theirs) == 2  # of seven donors with about 14 cells each, nearest to 30 cells
    for side in cells.split(0.2, groups="batch", seed=0):
        assert len(side.categories["batch"].unique()) == 1
    with pytest.raises(ValueError, match="all cells belong to one group"):
        cells.split(0.2, groups=["a"] * 100)
    with pytest.raises(ValueError, match="to split 100 cells, each needs a value: there are 99"):
        cells.split(0.2, groups=["a"] * 98 + ["b", None])
    with pytest.raises(ValueError, match="give one of the two"):
        cells.split(0.2, by="batch", groups="batch")
    with pytest.raises(KeyError, match="no categorical field 'donor'"):
        cells.split(0.2, groups="donor")
