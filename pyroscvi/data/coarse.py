"""Coarse labels: a label that is a node of a tree of types says that a cell is of one of the types below it."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pyroscvi.names import listed


def coarse(labels: ArrayLike, tree: Mapping[str, str], types: list[str] | None = None) -> pd.DataFrame:
    """A row of weights over types for every label [n, types]: 1 for each type that the label allows, otherwise 0.

        tree = {"CD4 T": "T", "CD8 T": "T", "T": "lymphocyte", "B": "lymphocyte"}
        adata.obsm["belief"] = ps.coarse(adata.obs["cell_type"], tree)
        cells = ps.Fields(belief="belief").read(adata)

    labels  a type, a node above types, or a missing value, which allows all: its row is NaN
    tree    the parent of each node
    types   names of the types, in order; None takes the leaves of the tree, and labels that are not in it

    A model that sums the type out then sums over the types that a label allows: no cell is assigned to one of them.
    Raises ValueError for a cycle in the tree, and for a label below which there is no type.
    """
    values = pd.Series(labels)
    given = values.astype(object).where(values.notna(), None)
    names = list(dict.fromkeys(str(value) for value in given if value is not None))
    parents = {str(node): str(parent) for node, parent in tree.items()}
    above = set(parents.values())
    if types is None:
        types = sorted({*parents, *names} - above)
    lineage = {kind: set(_upwards(kind, parents)) for kind in types}
    rows = {name: [float(name in lineage[kind]) for kind in types] for name in names}
    if empty := [name for name, row in rows.items() if not any(row)]:
        raise ValueError(f"no type lies at or below the labels {listed(empty)}: types are {listed(types, 50)}")
    unknown = [np.nan] * len(types)
    weights = [unknown if value is None else rows[str(value)] for value in given]
    return pd.DataFrame(weights, values.index, types, dtype=float)


def _upwards(node: str, parents: Mapping[str, str]) -> Iterator[str]:
    """The node and all nodes above it."""
    seen = {node}
    yield node
    while node in parents:
        node = parents[node]
        if node in seen:
            raise ValueError(f"the tree has a cycle at {node!r}")
        seen.add(node)
        yield node
