"""Matrices as AnnData keeps them (csr, csc, dense, views, on disk), brought into memory as CSR or a dense array."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

Matrix: TypeAlias = sparse.csr_matrix | np.ndarray

ROWS = 4096  # read from disk at once


def gather(source: Any, columns: np.ndarray | None = None, place: str = "the matrix") -> Matrix:
    """These columns, in this order, as CSR where the source is sparse and an array where it is dense; always a copy.

    The result is a copy because people normalise the AnnData in place later. A column of -1 is filled with zeros. CSR
    is canonical: sorted, without duplicates or stored zeros. ``place`` names the matrix in errors.
    """
    parts = list(blocks(source, columns, place))
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return np.zeros((0, source.shape[1] if columns is None else len(columns)))
    return sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)


def blocks(source: Any, columns: np.ndarray | None = None, place: str = "the matrix") -> Iterator[Matrix]:
    """The same, one block of rows after the other where the source is on disk."""
    if sparse.issparse(source) or isinstance(source, np.ndarray):
        yield select(source, columns, place=place)
        return
    if not hasattr(source, "shape") or not hasattr(source, "__getitem__"):
        kind = type(source).__name__
        raise TypeError(f"{place} of type {kind} cannot be read: give a scipy sparse matrix or an array")
    check_indices(source, place)
    if isinstance(source, CSCDataset):  # rows of a csc on disk would be read once for every block
        yield select(source.to_memory(), columns, place=place)
        return
    for start in range(0, source.shape[0], ROWS):
        yield select(source[start : start + ROWS], columns, copy=False, place=place)


def select(source: Any, columns: np.ndarray | None, copy: bool = True, place: str = "the matrix") -> Matrix:
    """The columns of a matrix in memory; with ``copy=False`` the result may share its memory.

    Compiled code of scipy trusts the indices of a sparse matrix and reads outside the arrays where they are wrong. So
    they are checked first: ValueError.
    """
    every_column = np.arange(source.shape[1])
    columns = every_column if columns is None else columns
    is_whole = np.array_equal(columns, every_column)
    if not sparse.issparse(source):
        if np.ma.is_masked(source):
            raise ValueError(f"{place} is a masked array with masked values: fill them in, masked.filled(0)")
        dense = np.asarray(source)
        picked = dense if is_whole else np.where(columns >= 0, dense[:, columns], 0)
        return np.array(picked, order="C", copy=copy or None)
    source = _checked(source, place)
    if is_whole:
        picked = sparse.csr_matrix(source, copy=copy)
    else:
        present = np.flatnonzero(columns >= 0)
        chosen = sparse.csr_matrix(source[:, columns[present]])
        shape = (chosen.shape[0], len(columns))
        picked = sparse.csr_matrix((chosen.data, present[chosen.indices], chosen.indptr), shape=shape)
    if not picked.has_canonical_format:
        if picked.dtype.kind in "buif":  # a sum of two small integers may not fit into their own type
            picked = picked.astype({"f": np.float64, "u": np.uint64}.get(picked.dtype.kind, np.int64))
        picked.sum_duplicates()
    picked.eliminate_zeros()
    return picked


def check_indices(source: Any, place: str) -> None:
    """Raise ValueError where indices of a sparse matrix point outside it; on disk, only its pointers are looked at."""
    if isinstance(source, CSRDataset | CSCDataset):
        try:
            if lacking := [name for name in ("indptr", "indices", "data") if name not in source.group]:
                raise ValueError(_damaged(place, f"it has no {lacking[0]}"))
            shapes = {name: source.group[name].shape for name in ("indices", "data")}
            pointers = source.group["indptr"][:]
        except (OSError, RuntimeError) as error:  # of HDF5, where bytes of the file were changed
            raise ValueError(_damaged(place, str(error))) from error
        _check_pointers(pointers, source.shape[isinstance(source, CSCDataset)], shapes, place)
    elif sparse.issparse(source):
        _checked(source, place)


def _checked(source: Any, place: str) -> Any:
    """The same sparse matrix, sharing its arrays, once its indices are known to lie inside it."""
    shapes = {"indices": source.indices.shape, "data": source.data.shape}
    _check_pointers(source.indptr, source.shape[source.format == "csc"], shapes, place)
    try:
        matrix = type(source)((source.data, source.indices, source.indptr), shape=source.shape)
        matrix.check_format(full_check=True)  # of a second object: the check cuts unused ends off the arrays
    except ValueError as error:
        raise ValueError(_damaged(place, str(error))) from error
    return matrix


def _check_pointers(pointers: np.ndarray, rows: int, shapes: Mapping[str, tuple[int, ...]], place: str) -> None:
    """Raise ValueError unless pointers [rows + 1] rise from 0 to at most the number of indices and values.

    scipy's check of a matrix in memory leaves out that they rise where the last of them is 0.
    """
    what = ""
    if shapes["indices"] != shapes["data"] or len(shapes["data"]) != 1:
        what = f"its indices and data are of shapes {shapes['indices']} and {shapes['data']}"
    elif pointers.shape != (rows + 1,):
        what = f"it has {rows:,} rows, and row pointers (indptr) of shape {pointers.shape}"
    elif pointers[0] != 0 or pointers[-1] > shapes["data"][0]:
        what = f"its row pointers (indptr) go from {pointers[0]} to {pointers[-1]} over {shapes['data'][0]:,} values"
    elif (np.diff(pointers) < 0).any():
        what = "its row pointers (indptr) must never fall"
    if what:
        raise ValueError(_damaged(place, what))


def _damaged(place: str, what: str) -> str:
    return f"{place} is a damaged sparse matrix: {what}. Make it anew from the original counts"
