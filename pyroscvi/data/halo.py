"""The halo of some cells of a tissue: the other cells that a guide reads, or that a prior makes them depend on."""

from dataclasses import replace
from math import ceil, log2
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from scipy import sparse

from pyroscvi.data.graph import neighbourhood
from pyroscvi.data.predecessors import nearest_given, sections
from pyroscvi.data.rows import picked
from pyroscvi.data.stored import Stored

if TYPE_CHECKING:
    from pyroscvi.data.cells import Cells

C = TypeVar("C", bound="Cells")

PER_OCTAVE = 8  # sizes of a padded halo between a number and its double: at most a tenth is added


def halo_of(cells: "Cells", index: np.ndarray, hops: int | None) -> dict[str, Any]:
    """The graphs of the chosen rows, renumbered: the chosen cells first, their predecessors, and the other halo."""
    assert cells.graph is not None
    before, first = (None, index[:0]) if cells.before is None else neighbourhood(cells.before, index, 1)
    graph, others = neighbourhood(cells.graph, np.concatenate([index, first]), hops)
    outside = np.concatenate([first, others])
    if before is not None:
        before.resize(graph.shape)
    everyone = cells.with_halo
    rows = {**picked(everyone, torch.as_tensor(outside)), "index": None}
    if isinstance(rows["counts"], Stored):
        rows["counts"] = rows["counts"].read()
    halo = replace(everyone, **rows, total=None)
    reach = [rounds for rounds in (hops, cells.hops) if rounds is not None]
    return {"graph": graph, "before": before, "halo": halo, "hops": min(reach, default=None)}


def padded(cells: C) -> C:
    """These cells with more halo and more edges, so that their numbers are among few: ``PER_OCTAVE``.

    A recorded step is of one number of each. The halo is filled with copies of its cells (of all cells where it is
    empty); further edges lead from the last copy to itself. Nothing leads from there to a cell of the minibatch.
    """
    if cells.graph is None or cells.before is not None:
        return cells
    n, h, e = len(cells), 0 if cells.halo is None else len(cells.halo), cells.graph.nnz
    nodes, edges = _rounded(h + 1), _rounded(e)
    copied = cells.halo if cells.halo is not None and h else replace(cells, graph=None, halo=None, hops=None)
    rows = np.concatenate([np.arange(h), np.arange(nodes - h) % len(copied)])
    filled = replace(copied, **{**picked(copied, torch.from_numpy(rows)), "index": None}, total=None)
    indptr = np.concatenate([cells.graph.indptr, np.full(nodes - h, e)])
    indptr[-1] = edges
    last = np.full(edges - e, n + nodes - 1, dtype=cells.graph.indices.dtype)
    data = np.concatenate([cells.graph.data, np.ones(edges - e, dtype=cells.graph.data.dtype)])
    graph = sparse.csr_matrix((data, np.concatenate([cells.graph.indices, last]), indptr), shape=(n + nodes, n + nodes))
    taken = replace(cells, graph=graph, halo=filled)
    if "library" in vars(cells):
        vars(taken)["library"] = cells.library
    return taken


def _rounded(number: int) -> int:
    """The next larger number of a ladder with ``PER_OCTAVE`` steps between a number and its double."""
    return ceil(2 ** (ceil(PER_OCTAVE * log2(max(number, 1))) / PER_OCTAVE))


def given_others(cells: C, held: np.ndarray) -> C:
    """These cells with other graphs, in which the ``held`` ones [n] depend on the others, and not the reverse."""
    assert cells.graph is not None
    assert cells.before is not None
    assert cells.places is not None
    m = int(np.diff(cells.before.indptr).max(initial=0))
    places = cells.places.double().cpu().numpy()
    known = held & np.isfinite(places).all(1)
    before = nearest_given(places, m, sections(cells.before), known, ~held & np.isfinite(places).all(1))
    edges = cells.graph.tocoo()
    kept = held[edges.coords[0]] | ~held[edges.coords[1]]
    target, source = (ends[kept] for ends in edges.coords)
    return replace(cells, graph=sparse.csr_matrix((edges.data[kept], (target, source)), edges.shape), before=before)


def reads_later_cells(cells: "Cells", hops: int) -> bool:
    """Whether a guide that reads so many hops reads one of these cells where it is predicted from its predecessors.

    It does if a predecessor reads, as a neighbour, a cell that does not come before it. The halo is not predicted.
    Without predecessors a cell is predicted from its neighbours, and they read it.
    """
    if cells.graph is None or not hops:
        return False
    if cells.before is None:
        return bool(cells.graph.nnz)
    first = np.unique(cells.before[: len(cells)].indices)
    readers = np.concatenate([first, neighbourhood(cells.graph, first, hops - 1)[1]])
    edges = cells.graph[readers].tocoo()
    target, source = (ends[edges.coords[1] < len(cells)] for ends in (readers[edges.coords[0]], edges.coords[1]))
    return bool((np.asarray(cells.before[target, source]) == 0).any())
