"""Coordinates of cells in tissue, checked and made a graph of neighbours."""

import re
import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from pyroscvi.advice import field
from pyroscvi.data.checks import check_numbers
from pyroscvi.data.columns import LARGEST_FLOAT, codes, floats_of
from pyroscvi.data.edges import Given, Graph, Nearest
from pyroscvi.data.graph import connected
from pyroscvi.data.predecessors import before

SECTION = re.compile(r"(section|slice|slide|sample)(_id)?|library_id|fov", re.IGNORECASE)  # columns of sections
MAX_SECTIONS = 1000  # a column with more levels does not name sections


class Tissue(NamedTuple):
    """What is read of the places of cells.

    places   coordinates in units of ``unit`` [n, 2 or 3]; NaN where unknown
    unit     the typical distance from a cell to its nearest one
    graph    distances between neighbours [n, n]; None if it is given in obsp
    before   predecessors [n, n]; None if there are none
    """

    places: np.ndarray
    unit: float
    graph: sparse.csr_matrix | None
    before: sparse.csr_matrix | None


def tissue(
    values: Any, graph: Graph, predecessors: int, section: pd.Series | None, obs: pd.DataFrame, role: str,
    unit: float | None,
) -> Tissue:  # fmt: skip
    """Places and graphs of cells in tissue; a cell whose coordinates are all NaN has no edges.

    values        a table of coordinates [n, 2 or 3]
    predecessors  how many a cell has; 0 for none
    section       the section of each cell [n]; without it, a warning names a column of obs that seems to hold sections
    unit          of the coordinates, if it is known; otherwise the typical distance to the nearest cell is

    Warns about cells without coordinates, cells at the place of another cell, and cells without neighbours.
    """
    coordinates = floats_of(values, role)
    if coordinates.shape[1] not in (2, 3):
        raise ValueError(f"{role} must have two or three columns, not {coordinates.shape[1]}")
    known = ~np.isnan(coordinates).all(axis=1)
    check_numbers(coordinates, obs.index, role, "finite", np.isfinite(coordinates) | ~known[:, None])
    moderate = (np.abs(coordinates) <= LARGEST_FLOAT) | ~known[:, None]
    check_numbers(coordinates, obs.index, role, f"between -{LARGEST_FLOAT:g} and {LARGEST_FLOAT:g}", moderate)
    if not known.all():
        message = f"{role}: {(~known).sum():,} of {len(known):,} cells have no coordinates (NaN), and so no neighbours"
        warnings.warn(message, UserWarning, stacklevel=5)
    if not known.any():
        raise ValueError(f"{role}: no cell has any")
    level = None
    if section is None:
        _warn_of_sections(coordinates[known], obs[known])
    else:
        level, _ = codes(section[known], f"section (obs[{section.name!r}])", optional=False)
    joined, earlier = None, None
    if not isinstance(graph, Given):
        among_known = connected(graph, coordinates[known], level)
        _warn_of_places(coordinates[known], level, among_known.tocoo(), role)
        joined = _spread(among_known, known)
    if unit is None:
        unit = _typical(coordinates[known], level)
    if predecessors:
        one = np.zeros(known.sum(), dtype=int) if level is None else level
        earlier = _spread(before(coordinates[known], predecessors, one), known)
    return Tissue(coordinates / unit, unit, joined, earlier)


def _spread(matrix: sparse.csr_matrix, known: np.ndarray) -> sparse.csr_matrix:
    """A matrix of the known cells as one of all cells; the others have empty rows and columns."""
    entries, place, n = matrix.tocoo(), np.flatnonzero(known), len(known)
    return sparse.csr_matrix((entries.data, tuple(place[ends] for ends in entries.coords)), shape=(n, n))


def _typical(coordinates: np.ndarray, level: np.ndarray | None) -> float:
    """The median distance of a cell to the nearest other one of its section; 1 if no two lie apart."""
    target, source = connected(Nearest(1), coordinates, level).nonzero()
    distance = np.linalg.norm(coordinates[target] - coordinates[source], axis=1)
    return float(np.median(distance[distance > 0])) if (distance > 0).any() else 1.0


def _warn_of_places(coordinates: np.ndarray, level: np.ndarray | None, edges: sparse.coo_matrix, role: str) -> None:
    """Warn about cells at the place of another cell of their section, and about cells without neighbours."""
    n = len(coordinates)
    in_section = np.column_stack([np.zeros(n) if level is None else level, coordinates])
    if (same := n - len(np.unique(in_section, axis=0))) > 0:
        message = f"{role}: {same:,} of {n:,} cells lie exactly where another cell lies; they are kept"
        warnings.warn(message, UserWarning, stacklevel=6)
    if (alone := n - len(np.unique(edges.coords[0]))) > 0:
        message = f"{role}: {alone:,} of {n:,} cells with coordinates have no neighbours; they are kept"
        warnings.warn(message, UserWarning, stacklevel=6)


def _warn_of_sections(coordinates: np.ndarray, obs: pd.DataFrame) -> None:
    """Warn if a column of obs is called like sections, and most cells lie where cells of another section lie too."""
    for name in obs.columns:
        if not SECTION.fullmatch(str(name)):
            continue
        level = pd.factorize(obs[name])[0] if isinstance(obs[name], pd.Series) else np.zeros(len(obs), dtype=int)
        levels = np.unique(level)
        if not 1 < len(levels) <= MAX_SECTIONS:
            continue
        boxes = [(members.min(0), members.max(0)) for members in (coordinates[level == code] for code in levels)]
        inside = sum(((coordinates >= low) & (coordinates <= high)).all(1).astype(int) for low, high in boxes)
        if np.mean(inside > 1) > 0.5:
            warnings.warn(
                f"cells of {len(levels):,} levels of obs[{name!r}] lie in the same place, and are read as one piece of "
                f"tissue. If they are sections, name the column: {field('section', str(name))}",
                UserWarning,
                stacklevel=6,
            )
            return
