"""Matrices as AnnData keeps them (csr, csc, dense, views, on disk), brought into memory as CSR or a dense array."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

__all__ = ["Matrix", "blocks", "gather", "select"]

Matrix: TypeAlias = sparse.csr_matrix | np.ndarray

ROWS = 4096  # read from disk at once


def gather(source: Any, columns: np.ndarray | None = None) -> Matrix:
    """These columns, in this order, as CSR where the source is sparse and an array where it is dense; always a copy.

    A copy, because people go on to normalise the AnnData in place. A column of -1 is filled with zeros. CSR comes in
    canonical form: sorted, without duplicates or stored zeros.
    """
    read = list(blocks(source, columns))
    if len(read) == 1:
        return read[0]
    if not read:
        return np.zeros((0, source.shape[1] if columns is None else len(columns)))
    return sparse.vstack(read, format="csr") if sparse.issparse(read[0]) else np.concatenate(read)


def blocks(source: Any, columns: np.ndarray | None = None) -> Iterator[Matrix]:
    """The same, a block of rows after the other where the source is on disk."""
    if sparse.issparse(source) or isinstance(source, np.ndarray):
        yield select(source, columns)
        return
    if not hasattr(source, "shape") or not hasattr(source, "__getitem__"):
        raise TypeError(
            f"counts of type {type(source).__name__} cannot be read: give a scipy sparse matrix or an array"
        )
    if getattr(source, "format", None) == "csc":  # rows of a csc on disk would be read once for every block
        yield select(source.to_memory(), columns)
        return
    for start in range(0, source.shape[0], ROWS):
        yield select(source[start : start + ROWS], columns, copy=False)


def select(source: Any, columns: np.ndarray | None, copy: bool = True) -> Matrix:
    """The columns of a matrix in memory, which may be shared if it need not be a copy."""
    everyone = np.arange(source.shape[1])
    columns = everyone if columns is None else columns
    everything = np.array_equal(columns, everyone)
    if not sparse.issparse(source):
        dense = np.asarray(source)
        picked = dense if everything else np.where(columns >= 0, dense[:, columns], 0)
        return np.array(picked, order="C", copy=copy or None)
    if everything:
        picked = sparse.csr_matrix(source, copy=copy)
    else:
        found = np.flatnonzero(columns >= 0)
        chosen = sparse.csr_matrix(source[:, columns[found]])
        shape = (chosen.shape[0], len(columns))
        picked = sparse.csr_matrix((chosen.data, found[chosen.indices], chosen.indptr), shape=shape)
    picked.sum_duplicates()
    picked.eliminate_zeros()
    return picked
