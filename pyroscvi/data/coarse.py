"""Labels that allow several types: nodes of a tree of types, and several columns of labels at once."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

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


BETWEEN = " / "  # the labels of a combination


def combined(labels: pd.DataFrame) -> pd.DataFrame:
    """A row of weights over combinations of several labels [n, combinations]: 1 for each that a cell may have, else 0.

        adata.obsm["belief"] = ps.combined(adata.obs[["cell_type", "state"]])
        cells = ps.Fields(belief="belief").read(adata)
        p = fit.probabilities(cells, "y")                                   # of "B / resting", "B / active", ...
        ps.separated(p, ["cell_type", "state"])["state"]                    # of "resting", "active"

    labels  a column for each kind of label; a missing value allows all labels of its column

    A cell has one type for each column, and these are not independent: each combination is a type of its own, with its
    own weight. What is missing is summed out. A cell without any label has a row of NaN. Raises ValueError for a column
    without labels, and for a label that contains " / ".
    """
    allowed = []
    for name, column in labels.items():
        values = column.astype(object).where(column.notna(), None)
        levels = sorted({str(value) for value in values if value is not None})
        if not levels or any(BETWEEN in level for level in levels):
            raise ValueError(f"column {name!r} has no labels, or has labels with {BETWEEN!r} in them: rename these")
        allowed.append({level: [value is None or str(value) == level for value in values] for level in levels})
    weights = {
        BETWEEN.join(levels): np.all([a[l] for a, l in zip(allowed, levels, strict=True)], 0)
        for levels in product(*allowed)
    }
    return pd.DataFrame(weights, labels.index, dtype=float).mask(labels.isna().all(axis=1), np.nan)


def separated(probabilities: pd.DataFrame, columns: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The probabilities of the labels of each column, from those of their combinations: see ``combined``."""
    names = [str(name).split(BETWEEN) for name in probabilities]
    if any(len(labels) != len(columns) for labels in names):
        raise ValueError(
            f"these are no probabilities of combinations of {len(columns)} labels: {listed(list(probabilities))}"
        )
    by = dict(zip(columns, zip(*names, strict=True), strict=True))
    return {name: probabilities.T.groupby(list(labels)).sum().T for name, labels in by.items()}


def read_tree(file: str | Path) -> dict[str, str]:
    """The parent of each node, from a file whose lines are a node and its parent, between them a tab or a comma.

    Empty lines, and those that begin with #, are left out. Raises ValueError for any other line, or a second parent.
    """
    tree: dict[str, str] = {}
    for number, line in enumerate(Path(file).read_text("utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        names = [name.strip() for name in line.split("\t" if "\t" in line else ",")]
        if len(names) != 2 or not all(names):
            raise ValueError(f"{file}, line {number}: {line!r} is not a node and its parent, between them a tab")
        if tree.setdefault(*names) != names[1]:
            raise ValueError(
                f"{file}, line {number}: {names[0]!r} has two parents, {tree[names[0]]!r} and {names[1]!r}"
            )
    return tree


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
