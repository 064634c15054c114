"""Counts on disk: the same cells as in memory, each once an epoch, well shuffled, and never all of them at once."""

import pickle
import threading
from collections import Counter
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import torch
from anndata import AnnData
from files_on_disk import FORMS, dense, folder, h5ad
from scipy import sparse

from pyroscvi.data import Cells, Fields, Given, loader, simulated, stored
from pyroscvi.data.stored import Source, Stored
from pyroscvi.fitting.resume import digest

FIELDS = Fields(batch="batch", label="cell_type", covariates="size")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Blocks and buffers so small that a few hundred cells are many of them."""
    monkeypatch.setattr(stored, "ROWS", 32)
    monkeypatch.setattr(stored, "BLOCK_ROWS", 4)
    monkeypatch.setattr(stored, "BUFFER", 64)
    monkeypatch.setattr(stored, "GAP", 3)
    monkeypatch.setattr(loader, "ROWS", 40)


@pytest.fixture
def adata() -> AnnData:
    adata = simulated(cells=203, genes=17, seed=1)
    del adata.layers["mean"]
    return adata


def assert_same(cells: Cells, others: Cells) -> None:
    """Equal in everything that a model looks at."""
    assert torch.equal(cells.x, others.x)
    assert cells.x.dtype == others.x.dtype
    assert torch.equal(cells.library, others.library)
    assert torch.equal(cells.batch, others.batch)
    assert torch.equal(cells.label, others.label)
    assert torch.equal(cells.covariates, others.covariates)
    assert cells.levels == others.levels
    assert cells.names.tolist() == others.names.tolist()
    assert cells.genes == others.genes
    assert cells.total == others.total
    assert (cells.index is None and others.index is None) or torch.equal(cells.index, others.index)


@pytest.mark.parametrize("form", FORMS)
def test_cells_on_disk_are_the_cells_that_would_be_read(form, adata, tmp_path):
    files = FORMS[form](adata, tmp_path)
    cells, wanted = FIELDS.open(files), FIELDS.read(adata)
    assert isinstance(cells.counts, Stored)
    assert_same(cells, wanted)
    assert torch.equal(cells.dims.profile, wanted.dims.profile)
    assert torch.equal(cells.dims.log_size, wanted.dims.log_size)
    assert (cells.dims.levels, cells.dims.covariates) == (wanted.dims.levels, wanted.dims.covariates)
    assert cells.fields == wanted.fields
    for rows in ([5], [7, 202, 7, 0], range(203), range(202, -1, -3), torch.arange(203) % 5 == 1):
        rows = rows if torch.is_tensor(rows) else torch.tensor(list(rows))
        assert_same(cells.take(rows), wanted.take(rows))
    query = cells.fields.open(files)
    assert torch.equal(query.covariates, wanted.covariates)


def test_a_layer_is_read_and_another_place_is_suggested(adata, tmp_path):
    adata.X = adata.X * 0.5
    path = h5ad(adata, tmp_path / "cells.h5ad")
    assert torch.equal(Fields("counts").open(path).x, Fields("counts").read(adata).x)
    assert torch.equal(Fields("counts").open(anndata.read_h5ad(path, backed="r")).x, Fields("counts").read(adata).x)
    with pytest.raises(
        ValueError, match=r"X holds values that are not counts.*read them with Fields\(counts='counts'\)"
    ):
        Fields().open(path)
    with pytest.raises(KeyError, match="no layer 'raw': its layers are 'counts'"):
        Fields("raw").open(path)


@pytest.mark.parametrize("dtype", ["f2", ">f4", ">i4", "u2"])
def test_counts_of_every_type_of_number_are_read(dtype, adata, tmp_path):
    path = dense(adata, tmp_path / "cells.h5ad")
    with h5py.File(path, "r+") as file:
        counts, attributes = file["X"][:], dict(file["X"].attrs)
        del file["X"]
        file["X"] = counts.astype(dtype)
        file["X"].attrs.update(attributes)
    x = FIELDS.open(path).subset(slice(None)).x
    assert x.dtype == torch.float32
    assert np.array_equal(x.numpy(), counts)


def test_text_in_the_place_of_counts_is_refused(adata, tmp_path):
    path = dense(adata, tmp_path / "cells.h5ad")
    with h5py.File(path, "r+") as file:
        attributes, shape = dict(file["X"].attrs), file["X"].shape
        del file["X"]
        file.create_dataset("X", data=np.full(shape, "1", dtype=object), dtype=h5py.string_dtype())
        file["X"].attrs.update(attributes)
    with pytest.raises(TypeError, match="X holds values of type object, which are not counts"):
        FIELDS.open(path)


def test_counts_that_cannot_be_unpacked_name_their_file(adata, tmp_path):
    path = h5ad(adata, tmp_path / "cells.h5ad", compression="gzip")
    with h5py.File(path, "r") as file:
        place = file["X/data"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place : place + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"X of .*cells\.h5ad cannot be read: .*The file is damaged: write it anew"):
        FIELDS.open(path)


def test_the_bad_count_is_named_wherever_it_lies(adata, tmp_path):
    adata.X.data[[40, -1]] = [-1, 0.5]
    row, gene = adata.obs_names[np.searchsorted(adata.X.indptr, 40, "right") - 1], adata.var_names[adata.X.indices[40]]
    message = f"not counts: 1 negative, 1 fractional. The first is -1.0, of gene '{gene}' in cell '{row}'"
    with pytest.raises(ValueError, match=f"X holds values that are {message}"):
        Fields().open(h5ad(adata, tmp_path / "cells.h5ad"))
    adata.X.data[40] = 1
    last = adata.obs_names[adata.X.sum(1).A1.nonzero()[0][-1]]
    with pytest.raises(ValueError, match=f"batch_0002: X holds .* 1 fractional. The first is 0.5, .* in cell '{last}'"):
        Fields().open(folder(adata, tmp_path / "cells"))


@pytest.mark.parametrize("form", ["h5ad", "dense", "zarr", "folder"])
def test_cells_without_counts_can_be_dropped(form, adata, tmp_path):
    filled = ~np.isin(np.arange(203), [3, 90, 91, 92, 93, 94, 95, 202])
    adata.X = sparse.csr_matrix(adata.X.multiply(filled[:, None]))
    files = FORMS[form](adata, tmp_path)
    with pytest.raises(ValueError, match="8 of 203 cells have no counts"):
        FIELDS.open(files)
    with pytest.warns(UserWarning, match="8 of 203 cells have no counts"):
        cells, wanted = FIELDS.open(files, empty="drop"), FIELDS.read(adata, empty="drop")
    assert_same(cells, wanted)
    assert torch.equal(cells.dims.profile, wanted.dims.profile)


def test_genes_are_matched_by_name(adata, tmp_path):
    names = (*adata.var_names[[5, 2, 9]], "nowhere")
    path = h5ad(adata, tmp_path / "cells.h5ad")
    with pytest.warns(UserWarning, match=r"1 of 4 genes (are missing|have no count)"):
        cells = Fields(genes=names).open(path, missing="zero")
    assert torch.equal(cells.x[:, :3], Fields(genes=names[:3]).read(adata).x)
    assert cells.x[:, 3].sum() == 0
    with pytest.raises(ValueError, match="1 of 4 genes are missing: 'nowhere'"):
        Fields(genes=names).open(path)


def test_files_that_lack_genes_are_named(adata, tmp_path):
    few, none = adata[:, 3:].copy(), adata.copy()
    none.var_names = [f"other{i}" for i in range(17)]
    a, b, c = (h5ad(x, tmp_path / f"{n}.h5ad") for n, x in (("a", adata), ("b", few), ("c", none)))
    with pytest.warns(UserWarning, match=r"genes that some files lack are left out: b lacks 3 \('gene0', 'gene1'"):
        cells = FIELDS.open({"a": a, "b": b})
    assert cells.genes == tuple(few.var_names)
    with pytest.warns(UserWarning, match="lack are left out of the probability of their cells: b lacks 3"):
        cells = FIELDS.open({"a": a, "b": b}, genes="union")
    wanted = FIELDS.read({"a": adata, "b": few}, genes="union")
    assert torch.equal(cells.x, wanted.x)
    assert torch.equal(cells.measured, wanted.measured)
    assert cells.measured[:203].all()
    assert (cells.measured[203:].sum(1) == 14).all()
    for minibatch in cells.minibatches(50, torch.Generator().manual_seed(0)):
        assert torch.equal(minibatch.measured, wanted.measured[minibatch.index])
    assert torch.equal(cells.dims.profile, wanted.dims.profile)
    with pytest.warns(UserWarning, match="lack count as zero there: b lacks 3"):
        assert FIELDS.open({"a": a, "b": b}, genes="union", missing="zero").measured is None
    assert len(set(cells.names)) == 406
    with pytest.raises(ValueError, match="no gene is in all files: c shares none with a"):
        FIELDS.open({"a": a, "b": b, "c": c})


def test_a_file_without_a_column_is_named_and_files_are_batches_where_none_has_one(adata, tmp_path):
    path = folder(adata, tmp_path / "cells")
    cells = Fields(batch="file").open(path)
    assert cells.levels["batch"] == ("batch_0000", "batch_0001", "batch_0002")
    assert cells.batch.tolist() == [0] * 68 + [1] * 68 + [2] * 67
    del cells  # so that a file may be written anew
    part = anndata.read_h5ad(path / "batch_0001.h5ad")
    del part.obs["batch"]
    part.write_h5ad(path / "batch_0001.h5ad")
    with pytest.raises(ValueError, match="obs of 'batch_0001' has no column 'batch', which the other files have"):
        FIELDS.open(path)


def test_a_backed_anndata_may_be_a_part_of_its_file(adata, tmp_path):
    backed = anndata.read_h5ad(h5ad(adata, tmp_path / "cells.h5ad"), backed="r")
    backed.obs["batch"] = np.where(np.arange(203) % 3 == 0, "x", "y")  # in memory only
    adata.obs["batch"] = backed.obs["batch"]
    rows, columns = np.arange(202, 50, -3), np.arange(16, 0, -2)
    assert_same(FIELDS.open(backed), FIELDS.read(adata))
    cells, wanted = FIELDS.open(backed[rows, columns]), FIELDS.read(adata[rows, columns].copy())
    assert_same(cells, wanted)
    assert torch.equal(cells.dims.profile, wanted.dims.profile)
    backed.obs_names = [f"new{i}" for i in range(203)]
    assert FIELDS.open(backed).names[0] == "new0"
    with pytest.raises(ValueError, match="cells were renamed since the file was opened: 'new0'"):
        FIELDS.open(backed[:50])


def test_what_cannot_be_opened_says_why(adata, tmp_path):
    with pytest.raises(ValueError, match="in memory: read it, "):
        Fields().open(adata)
    with pytest.raises(ValueError, match="no such file or folder"):
        Fields().open(tmp_path / "nowhere.h5ad")
    with pytest.raises(ValueError, match=r"holds no files of cells: '\.h5ad'"):
        Fields().open(tmp_path)
    with pytest.raises(TypeError, match="opened from a path, an AnnData on disk, or several, not from int"):
        Fields().open(3)
    with pytest.raises(ValueError, match="no file was given"):
        Fields().open([])
    with pytest.raises(ValueError, match="cells with a graph in obsp are read into memory"):
        Fields(graph=Given()).open(tmp_path)
    for name in ("a.h5ad", "a.txt", "a.h5"):
        (tmp_path / name).write_text("nothing")
        with pytest.raises(ValueError, match=rf"{name} cannot be opened"):
            Fields().open(tmp_path / name)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["X"] = np.ones((3, 2))
    with pytest.raises(ValueError, match="it has no 'genes', 'cells'; a batch file holds X, genes, cells and obs"):
        Fields().open(tmp_path / "b.h5")
    adata.X = sparse.csc_matrix(adata.X)
    with pytest.raises(ValueError, match=r"X is stored gene by gene \(csc\).*adata\.X\.tocsr\(\)"):
        Fields().open(h5ad(adata, tmp_path / "c.h5ad"))


# Order


def on_disk(adata: AnnData, path: Path, fields: Fields = FIELDS) -> Cells:
    return fields.open(h5ad(adata, path / "cells.h5ad"))


@pytest.mark.filterwarnings("ignore:.*genes have no count")
@pytest.mark.parametrize("n", [1, 7, 63, 64, 65, 128, 130, 203])
def test_each_cell_comes_exactly_once_an_epoch(n, adata, tmp_path):
    cells, wanted = on_disk(adata[:n].copy(), tmp_path), FIELDS.read(adata[:n].copy())
    generator = torch.Generator().manual_seed(3)
    epochs = [list(cells.minibatches(8, generator)) for _ in range(2)]
    for minibatches in epochs:
        assert [len(m) for m in minibatches] == [8] * (n // 8) + [n % 8] * (n % 8 > 0)
        assert Counter(i for m in minibatches for i in m.index.tolist()) == Counter(range(n))
        for m in minibatches:
            assert_same(m, wanted.take(m.index))
    if n > 7:
        assert [m.index.tolist() for m in epochs[0]] != [m.index.tolist() for m in epochs[1]]
    again = [m.index.tolist() for m in cells.minibatches(8, torch.Generator().manual_seed(3))]
    assert again == [m.index.tolist() for m in epochs[0]]
    assert [i for m in cells.minibatches(8) for i in m.index.tolist()] == list(range(n))


def test_minibatches_in_memory_are_slices_of_one_permutation(adata):
    cells = FIELDS.read(adata)
    order = torch.randperm(203, generator=torch.Generator().manual_seed(5)).split(8)
    for m, index in zip(cells.minibatches(8, torch.Generator().manual_seed(5)), order, strict=True):
        assert_same(m, cells.take(index))
        assert sparse.issparse(m.counts)
        assert torch.equal(m.take([1, 0]).x, m.x[[1, 0]])


@pytest.mark.parametrize("disk", [True, False])
@pytest.mark.parametrize("start", [0, 1, 6, 7, 8, 15, 25, 26])
def test_a_resumed_pass_does_not_read_earlier_minibatches(disk, start, adata, tmp_path, monkeypatch):
    cells = on_disk(adata, tmp_path) if disk else FIELDS.read(adata)
    everything = list(cells.minibatches(8, torch.Generator().manual_seed(5)))
    read = []
    take = Cells.take
    monkeypatch.setattr(Cells, "take", lambda self, index, hops=1: read.append(len(index)) or take(self, index, hops))
    rest = list(cells.minibatches(8, torch.Generator().manual_seed(5), start=start))
    assert len(rest) == 26 - start
    for m, wanted in zip(rest, everything[start:], strict=True):
        assert_same(m, wanted)
    assert sum(read) <= 203 - 8 * start + 64


def test_shuffling_forgets_where_cells_lay():
    """Blocks of 4 through buffers of 64, as blocks of 128 through buffers of 16,384, but for the numbers."""
    n, size = 4000, 16
    generator = torch.Generator().manual_seed(0)
    apart, together = [], []
    for _ in range(50):
        order = loader.shuffled(n, 4, 64, size, generator)
        assert sorted(order.tolist()) == list(range(n))
        for minibatch in order.split(size):
            assert len(set((minibatch // 4).tolist())) > 4  # of 16 cells, where one block would be 4
        position = torch.empty(n)
        position[order] = torch.arange(n).float()
        assert abs(np.corrcoef(position, np.arange(n))[0, 1]) < 0.15
        minibatches = order.view(-1, size)
        one, other = minibatches[:, :, None], minibatches[:, None, :]
        apart.append((one - other).abs().float().mean().item() * size / (size - 1))
        together.append(((one // 4 == other // 4).float().mean().item() * size - 1) / (size - 1))
    # Two cells of a minibatch lie as far apart in the file as two cells at random, n / 3, unless they are of one block.
    # In a shuffled buffer these would be 3 of the 63 others. Streams take turns, so they are fewer.
    assert np.mean(together) < 3 / 63
    assert np.mean(apart) == pytest.approx(n / 3 * (1 - np.mean(together)), rel=0.02)


@pytest.mark.parametrize("world", [2, 4])
def test_processes_read_blocks_of_their_own_and_share_every_minibatch(world, tmp_path, monkeypatch):
    """256 cells are four buffers of 64, and a stream is two blocks of a buffer."""
    cells = on_disk(simulated(cells=256, genes=17, seed=1), tmp_path, Fields())
    whole = list(cells.minibatches(8, torch.Generator().manual_seed(3)))
    rows, read = [], Source.read
    monkeypatch.setattr(Source, "read", lambda self, own: rows[-1].update(own.tolist()) or read(self, own))
    shards = []
    for rank in range(world):
        rows.append(set())
        shards.append(list(cells.minibatches(8, torch.Generator().manual_seed(3), rank=rank, world=world)))
    for minibatch, *parts in zip(whole, *shards, strict=True):
        for rank, part in enumerate(parts):
            assert torch.equal(part.index, minibatch.index[rank::world])
            assert torch.equal(part.x, minibatch.x[rank::world])
    blocks = [{row // 4 for row in own} for own in rows]
    assert [len(own) for own in blocks] == [64 // world] * world
    assert set.union(*blocks) == set(range(64))


def test_a_sorted_file_gives_mixed_minibatches(adata, tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "BUFFER", 100)
    adata = adata[np.argsort(adata.obs["batch"].to_numpy(), kind="stable")].copy()
    minibatches = list(on_disk(adata, tmp_path).minibatches(25, torch.Generator().manual_seed(0)))
    assert all(len(m.batch.unique()) == 2 for m in minibatches)


def test_the_last_buffer_is_as_full_as_the_others():
    assert [loader._buffer_size(n, 8, 64) for n in (1, 64, 65, 130, 203)] == [8, 64, 40, 48, 56]
    assert loader._buffer_size(1000, 128, 64) == 128


# Memory, threads, processes


def test_never_all_cells_are_in_memory(adata, tmp_path, monkeypatch):
    tallest = [0]
    read = Source.read
    monkeypatch.setattr(Source, "read", lambda self, rows: tallest.append(len(rows)) or read(self, rows))
    cells = on_disk(adata, tmp_path)
    assert max(tallest) <= 32
    train, held = cells.split(0.1, by="batch")
    assert isinstance(train.counts, Stored)
    assert sparse.issparse(held.counts)  # so few that they are kept
    assert len(train) + len(held) == 203
    list(train.minibatches(8, torch.Generator().manual_seed(0)))
    _ = train.dims, train.library, repr(train)
    assert max(tallest) <= 64
    wanted = FIELDS.read(adata).split(0.1, by="batch")
    for some, others in zip((train, held), wanted, strict=True):
        assert_same(some, others)
        assert torch.equal(some.dims.profile, others.dims.profile)


def test_wide_cells_share_a_smaller_buffer(adata, tmp_path, monkeypatch):
    counts = on_disk(adata, tmp_path).counts
    assert counts.buffer == 64
    monkeypatch.setattr(stored, "VALUES", 20 * counts.filled.mean())
    assert counts.buffer in (19, 20)
    monkeypatch.setattr(stored, "VALUES", 1)
    assert counts.buffer == 4


def test_an_error_of_the_reader_is_raised_and_its_thread_ends(adata, tmp_path, monkeypatch):
    cells = on_disk(adata, tmp_path)
    minibatches = cells.minibatches(8, torch.Generator().manual_seed(0))
    next(minibatches)
    minibatches.close()
    read = Source.read
    calls = iter([False, True])
    monkeypatch.setattr(Source, "read", lambda self, rows: 1 / 0 if next(calls) else read(self, rows))
    minibatches = cells.minibatches(8, torch.Generator().manual_seed(0))
    assert len(next(minibatches)) == 8
    with pytest.raises(ZeroDivisionError):
        list(minibatches)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pyroscvi")]


@pytest.mark.parametrize("form", ["h5ad", "dense", "zarr", "folder"])
def test_cells_on_disk_go_to_other_processes(form, adata, tmp_path):
    cells = FIELDS.open(FORMS[form](adata, tmp_path))
    assert_same(pickle.loads(pickle.dumps(cells)), cells)


def test_other_counts_with_the_same_totals_are_other_cells(adata, tmp_path):
    """Otherwise a run would go on, on these counts, from where a run on other counts had stopped."""
    x = adata.X.toarray()
    x[np.ix_([3, 90], [2, 9])] = [[2, 1], [1, 2]]
    adata.X = sparse.csr_matrix(x)
    x[np.ix_([3, 90], [2, 9])] = [[1, 2], [2, 1]]  # the totals of cells and of genes stay the same
    other = adata.copy()
    other.X = sparse.csr_matrix(x)
    one, same, changed = (
        Fields().open(h5ad(data, tmp_path / f"{name}.h5ad"))
        for name, data in (("a", adata), ("b", adata), ("c", other))
    )
    assert (one.counts.totals == changed.counts.totals).all()
    assert (one.counts.genes == changed.counts.genes).all()
    assert digest(one) == digest(same) != digest(changed)
    rows = torch.arange(100)
    assert digest(one.subset(rows)) == digest(same.subset(rows)) != digest(changed.subset(rows))
    assert digest(one.subset(rows)) != digest(one.subset(rows + 1))
