"""Damaged sparse matrices are refused before compiled code reads outside their arrays."""

from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from anndata import AnnData
from files_on_disk import zarr as write_zarr
from scipy import sparse

from pyroscvi.data import Fields
from pyroscvi.data.matrices import select

DENSE = np.random.default_rng(0).poisson(1.0, (20, 9)).astype(np.float32) + np.eye(20, 9, dtype=np.float32) + 1


def outside(matrix) -> None:
    matrix.indices[7] = max(matrix.shape)


def negative(matrix) -> None:
    matrix.indices[0] = -1


def huge(matrix) -> None:
    matrix.indices[-1] = 2**31 - 2


def beyond(matrix) -> None:
    matrix.indptr[3] = matrix.indptr[-1] + 1000


def falling(matrix) -> None:
    matrix.indptr[5] = 0


def falling_to_zero(matrix) -> None:
    matrix.indptr[5:] = 0


def first_pointer(matrix) -> None:
    matrix.indptr[0] = 2


def last_pointer(matrix) -> None:
    matrix.indptr[-1] += 5


DAMAGE: list[Callable] = [outside, negative, huge, beyond, falling, falling_to_zero, first_pointer, last_pointer]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_a_damaged_matrix_in_memory_is_refused(form, damage):
    adata = AnnData(form(DENSE), layers={"counts": form(DENSE)})
    damage(adata.layers["counts"])
    for genes in (None, ("0", "3")):
        with pytest.raises(ValueError, match="layer 'counts' is a damaged sparse matrix: "):
            Fields("counts", genes=genes).read(adata)
    assert Fields().read(adata).x.shape == (20, 9)


def test_a_view_of_a_damaged_matrix_is_refused():
    adata = AnnData(sparse.csr_matrix(DENSE))
    beyond(adata.X)
    with pytest.raises(ValueError, match="X is a damaged sparse matrix"):
        Fields().read(adata[[1, 4, 5]])


def test_the_search_for_counts_leaves_out_damaged_layers():
    adata = AnnData(DENSE * 0.5, layers={"counts": sparse.csr_matrix(DENSE)})
    negative(adata.layers["counts"])
    with pytest.raises(ValueError, match="No other layer holds counts"):
        Fields().read(adata)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_matrix_in_a_file_is_refused(damage, tmp_path):
    path = damaged_file(tmp_path / "cells.h5ad", damage)
    with pytest.raises(ValueError, match="X is a damaged sparse matrix"):
        Fields().open(path)
    backed = anndata.read_h5ad(path, backed="r")
    with pytest.raises(ValueError, match="X is a damaged sparse matrix"):
        Fields().read(backed)
    backed.file.close()


def damaged_file(path: Path, damage: Callable) -> Path:
    """An h5ad file whose X was damaged after it was written."""
    AnnData(sparse.csr_matrix(DENSE)).write_h5ad(path)
    matrix = sparse.csr_matrix(DENSE)
    damage(matrix)
    with h5py.File(path, "r+") as file:
        file["X/indices"][:], file["X/indptr"][:] = matrix.indices, matrix.indptr
    return path


@pytest.mark.parametrize("part", ["indptr", "indices"])  # without data, the file cannot be opened at all
def test_a_matrix_in_a_file_that_lacks_an_array_is_refused(part, tmp_path):
    path = damaged_file(tmp_path / "cells.h5ad", lambda matrix: None)
    with h5py.File(path, "r+") as file:
        del file[f"X/{part}"]
    with pytest.raises(ValueError, match=f"X is a damaged sparse matrix: it has no {part}"):
        Fields().open(path)


def test_a_file_whose_bytes_hdf5_cannot_read_is_refused(tmp_path):
    path = tmp_path / "cells.h5ad"
    pointers = np.arange(0, 3_000, 3, dtype=np.int32)
    AnnData(sparse.csr_matrix((np.ones(2_997), np.tile([0, 1, 2], 999), pointers))).write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        chunk = file["X/indptr"].id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    with pytest.raises(ValueError, match="X is a damaged sparse matrix"):
        Fields().open(path)


def test_a_file_that_is_damaged_after_it_was_opened_is_refused(tmp_path):
    pytest.importorskip("zarr")
    import zarr

    path = write_zarr(AnnData(sparse.csr_matrix(DENSE)), tmp_path / "cells.zarr")
    cells = Fields().open(path)
    indices = zarr.open_group(path, mode="r+")["X/indices"]
    indices[0] = 9
    with pytest.raises(ValueError, match="X is a damaged sparse matrix: indices must be < 9"):
        cells.take([0])


def test_the_check_leaves_the_matrix_as_it_is():
    matrix = sparse.csr_matrix(DENSE)
    matrix.data, matrix.indices = np.append(matrix.data, 77), np.append(matrix.indices, 0)  # unused ends
    assert (select(matrix, None).toarray() == DENSE).all()
    assert len(matrix.data) == DENSE.size + 1


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float32])
def test_two_values_in_one_place_are_added_without_overflow(dtype):
    value = 100 if dtype != np.float32 else 2**24 - 1
    matrix = sparse.csr_matrix(([value, value, 1], [0, 0, 1], [0, 3]), shape=(1, 2), dtype=dtype)
    assert select(matrix, None).toarray().tolist() == [[2 * value, 1]]


def test_masked_values_are_refused():
    masked = np.ma.masked_array(DENSE, mask=DENSE > 3)
    with pytest.raises(ValueError, match=r"X is a masked array with masked values: fill them in"):
        Fields().read(AnnData(masked))
    assert Fields().read(AnnData(np.ma.masked_array(DENSE))).x.shape == (20, 9)
