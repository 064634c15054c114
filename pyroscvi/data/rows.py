"""The fields of ``Cells`` that have one row for each cell, and what is done with all of them alike.

``Cells`` declares them once, by ``field(metadata=BY_CELL)``: nothing else lists them.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from pyroscvi.data.stored import Stored

if TYPE_CHECKING:
    from pyroscvi.data.cells import Cells

BY_CELL = {"by_cell": True}


def by_cell(change: Callable[..., Any], *cells: "Cells") -> dict[str, Any]:
    """The fields with one row for each cell, after ``change``; None where one of the ``cells`` has no such field.

    ``change`` takes that field of each of the ``cells``: counts, a tensor [n, ...] or an array [n].
    """
    changed: dict[str, Any] = {}
    for name in (declared.name for declared in fields(cells[0]) if declared.metadata == BY_CELL):
        values = [getattr(one, name) for one in cells]
        if isinstance(values[0], Mapping):
            changed[name] = {key: change(*(value[key] for value in values)) for key in values[0]}
        else:
            changed[name] = None if any(value is None for value in values) else change(*values)
    return changed


def picked(cells: "Cells", index: Tensor) -> dict[str, Any]:
    """Every field that has one row for each cell, at these rows."""
    return by_cell(
        lambda values: values[index.to(values.device) if isinstance(values, Tensor) else index.numpy()], cells
    )


def stacked(first: Any, second: Any) -> Any:
    """The rows of one field, and then those of another."""
    first, second = (rows.read() if isinstance(rows, Stored) else rows for rows in (first, second))
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    return np.concatenate([first, second]) if isinstance(first, np.ndarray) else sparse.vstack([first, second], "csr")


def between(values: Any, rows: slice) -> Any:
    """Consecutive rows without a copy; slices of scipy's matrices would copy."""
    if not sparse.issparse(values):
        return values[rows]
    crow = values.indptr[rows.start : rows.stop + 1]
    own = slice(crow[0], crow[-1])
    return sparse.csr_matrix((values.data[own], values.indices[own], crow - crow[0]), (len(crow) - 1, values.shape[1]))
