"""Graphs of neighbouring cells and the distances between them.

A graph is a CSR matrix whose entry (target, source) is a distance. Only distances are kept, because they stay the same
when the tissue is turned, mirrored or shifted; coordinates would change.
"""

import numpy as np
from scipy import sparse

from pyroscvi.data.edges import Graph, Nearest


def connected(graph: Graph, coordinates: np.ndarray, section: np.ndarray | None = None) -> sparse.csr_matrix:
    """The graph of every section by itself; distances in units of that section's median [n, n].

    coordinates  positions in two or three dimensions   [n, 2 or 3]
    section      code of the tissue section of each cell [n]; cells of different sections are never joined
    """
    n = len(coordinates)
    section = np.zeros(n, dtype=int) if section is None else np.asarray(section)
    rows, columns, lengths = [np.zeros(0, dtype=int)], [np.zeros(0, dtype=int)], [np.zeros(0)]
    for level in np.unique(section):
        members = np.flatnonzero(section == level)
        targets, sources = (members[ends] for ends in graph(coordinates[members]))
        distance = np.linalg.norm(coordinates[targets] - coordinates[sources], axis=1)
        rows.append(targets)
        columns.append(sources)
        unit = np.median(distance) if len(distance) else 0.0
        lengths.append(distance / (unit or 1.0))
    triplets = np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_matrix(triplets, shape=(n, n))


def nearest(coordinates: np.ndarray, neighbours: int = 6, section: np.ndarray | None = None) -> sparse.csr_matrix:
    """Every cell's nearest neighbours within its own section: ``connected(Nearest(neighbours), ...)``."""
    return connected(Nearest(neighbours), coordinates, section)


def neighbourhood(
    graph: sparse.csr_matrix, index: np.ndarray, hops: int | None
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """The edges of ``hops`` rounds of message passing into the nodes ``index``, and the other nodes of these edges.

    In the graph that is returned, nodes are numbered anew: those of ``index`` first, and then the others. With
    ``hops=None`` there are as many rounds as it takes to use every edge that leads to ``index``.
    """
    seen, into, frontier, rounds = np.unique(index), [index[:0]], index, 0
    while len(frontier) and rounds != hops:
        into.append(frontier)  # the nodes whose incoming edges some round needs
        frontier = np.setdiff1d(graph[frontier].indices, seen)
        seen = np.union1d(seen, frontier)
        rounds += 1
    outside = np.setdiff1d(seen, index)
    nodes = np.concatenate([index, outside])
    order = np.argsort(nodes, kind="stable")
    targets = np.flatnonzero(np.isin(nodes, np.concatenate(into)))  # by position: a cell chosen twice is a target twice
    picked = graph[nodes[targets]].tocoo()
    columns = order[np.searchsorted(nodes[order], picked.coords[1], side="right") - 1]
    edges = (picked.data, (targets[picked.coords[0]], columns))
    return sparse.csr_matrix(edges, shape=(len(nodes), len(nodes))), outside


def visited(graph: sparse.csr_matrix, n: int) -> sparse.csr_matrix:
    """A graph of n visitors and then all m nodes of ``graph`` [n + m, n + m].

    Visitor i takes the place of node i: it has the same neighbours, but is not a neighbour of any node.
    """
    to_nodes = sparse.vstack([graph[:n], graph])
    return sparse.hstack([sparse.csr_matrix((to_nodes.shape[0], n)), to_nodes], "csr")
