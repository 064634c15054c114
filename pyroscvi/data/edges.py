"""Which cells of a tissue are neighbours: a slot of ``Fields``.

    Fields(spatial="spatial", section="slice", graph=Radius(50.0)).read(adata)

References
    Palla, G. et al. (2022) Squidpy: a scalable framework for spatial omics analysis. Nature Methods 19, 171-178.
    doi:10.1038/s41592-021-01358-2 (``Given`` reads the keys of obsp that it writes)
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse
from scipy.spatial import Delaunay as Triangulation
from scipy.spatial import QhullError, cKDTree

from pyroscvi.advice import either
from pyroscvi.names import listed
from pyroscvi.part import Part, kinds
from pyroscvi.ranges import PositiveFloat, PositiveInt

__all__ = ["Delaunay", "Given", "Graph", "Nearest", "Radius"]


class Graph(Part):
    """A slot from the coordinates of one section [n, 2 or 3] to its edges: their targets [e] and their sources [e]."""

    def forward(self, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


class Nearest(Graph):
    """The k nearest other cells of a cell. A cell can be among the nearest of another and not the reverse."""

    k: PositiveInt = 6

    def forward(self, coordinates):
        n = len(coordinates)
        k = min(self.k, n - 1)
        if k < 1:
            return np.zeros((2, 0), dtype=int)
        near = cKDTree(coordinates).query(coordinates, k=k + 1)[1]
        # A cell is usually, but with coincident cells not always, the first of its own neighbours.
        other = near != np.arange(n)[:, None]
        other[other.all(1), -1] = False
        return np.repeat(np.arange(n), k), near[other]


class Radius(Graph):
    """All other cells up to this distance away, in the unit of the coordinates."""

    radius: PositiveFloat

    def forward(self, coordinates):
        pairs = cKDTree(coordinates).query_pairs(self.radius, output_type="ndarray")
        return np.concatenate([pairs, pairs[:, ::-1]]).T


class Delaunay(Graph):
    """The cells with which a cell shares an edge of the Delaunay triangulation. Edges at the border may be long."""

    def forward(self, coordinates):
        n, dimensions = coordinates.shape
        if n <= dimensions + 1:  # too few for a triangulation: all of them are neighbours
            return np.nonzero(~np.eye(n, dtype=bool))
        try:
            triangles = Triangulation(coordinates)
        except QhullError as error:
            raise ValueError(
                f"coordinates of a section with {n} cells have no Delaunay triangulation, as when all cells lie on one "
                "line: take Nearest(6), or leave out a coordinate that is constant"
            ) from error
        starts, other = triangles.vertex_neighbor_vertices
        edges = np.stack([np.repeat(np.arange(n), np.diff(starts)), other])
        same = triangles.coplanar[:, [0, 2]].T  # cells at the place of another cell, which the triangulation leaves out
        return np.concatenate([edges, same, same[::-1]], axis=1)


class Given(Graph):
    """The graph in obsp: ``{key}_connectivities`` has the neighbours, ``{key}_distances`` their distances.

    These are the names that ``squidpy.gr.spatial_neighbors`` gives them. Without distances all edges are equally long.
    """

    key: str = "spatial"

    def read(self, adata: AnnData, section: np.ndarray | None) -> sparse.csr_matrix:
        """The graph [n, n], distances in units of their median. Raises an error for a graph that cannot be used."""
        names = [f"{self.key}_connectivities", f"{self.key}_distances"]
        matrices = {name: _checked(adata.obsp[name], f"obsp[{name!r}]", adata) for name in names if name in adata.obsp}
        if not matrices:
            remedy = either("graph=Nearest(6) with spatial=...", "--graph nearest:6 with --spatial ...")
            raise KeyError(
                f"obsp has neither of {listed(names)}; it has {listed(adata.obsp) or 'nothing'}. A graph can also be "
                f"made from coordinates, and has to be where several files are read: {remedy}"
            )
        joined = next(iter(matrices.values())).tocoo()
        target, source = (ends[joined.coords[0] != joined.coords[1]] for ends in joined.coords)
        if section is not None and (apart := section[target] != section[source]).any():
            one, other = adata.obs_names[target[apart][0]], adata.obs_names[source[apart][0]]
            raise ValueError(
                f"obsp: {apart.sum():,} of {len(apart):,} edges join cells of different sections, the first {one!r} "
                f"and {other!r}: make a graph of each section (library_key of squidpy.gr.spatial_neighbors)"
            )
        if names[1] in matrices:
            lengths = np.asarray(matrices[names[1]][target, source]).ravel()
            lengths = lengths / (np.median(lengths) if len(lengths) and np.median(lengths) else 1.0)
        else:
            lengths = np.ones(len(target))
        return sparse.csr_matrix((lengths, (target, source)), shape=joined.shape)


def _checked(matrix: Any, place: str, adata: AnnData) -> sparse.csr_matrix:
    """A matrix of obsp whose stored values are finite and not negative; zeros of a dense matrix are no edges."""
    matrix = sparse.csr_matrix(matrix)
    bad = ~(np.isfinite(matrix.data) & (matrix.data >= 0))
    if bad.any():
        flat = int(bad.argmax())
        row = int(np.searchsorted(matrix.indptr, flat, side="right")) - 1
        raise ValueError(
            f"{place} must be finite and not negative: {bad.sum():,} of {len(bad):,} values are not, the first is "
            f"{matrix.data[flat]}, of cell {adata.obs_names[row]!r}"
        )
    return matrix


def fields_of(graph: Graph) -> dict[str, Any]:
    """The fields of a graph by name: plain data."""
    return {field.name: getattr(graph, field.name) for field in fields(graph)}


def declared(graph: Any) -> Graph:
    """A graph, as it is or from plain data: ``{"Nearest": {"k": 6}}``. TypeError for anything else."""
    if isinstance(graph, Graph):
        return graph
    known = {kind.__name__: kind for kind in kinds(Graph)}
    if isinstance(graph, Mapping) and len(graph) == 1 and (name := next(iter(graph))) in known:
        return known[name](**graph[name])
    raise TypeError(f"graph must be a Graph such as Nearest(6), Radius(50.0), Delaunay() or Given(), not {graph!r}")
