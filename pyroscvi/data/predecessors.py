"""An order of the cells of a tissue, and for every cell the nearest cells before it.

A Gaussian process over n cells costs n^3. Vecchia's approximation writes it as a product over cells in a fixed order,
each given the m nearest cells before it: a proper density, whatever m is, at a cost in proportion to n. In a random
order the first cells lie far apart, so that their few predecessors carry what is smooth over the whole tissue.

References
    Vecchia, A. V. (1988) Estimation and model identification for continuous spatial processes. J R Stat Soc B 50,
    297-312. doi:10.1111/j.2517-6161.1988.tb01729.x
    Guinness, J. (2018) Permutation and grouping methods for sharpening Gaussian process approximations. Technometrics
    60, 415-429. doi:10.1080/00401706.2018.1437476
"""

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

PATCH = 6.0  # side of a patch, in typical distances from a cell to its nearest one: it has some 10 to 40 cells


def before(coordinates: np.ndarray, m: int, section: np.ndarray, seed: int = 0) -> sparse.csr_matrix:
    """For every cell the m nearest cells of its section that come before it in a random order [n, n].

    Entry (cell, predecessor) is 1. The first cells of a section have fewer predecessors, and the very first has none.
    """
    rng = np.random.default_rng(seed)
    rows, columns = [np.zeros(0, dtype=int)], [np.zeros(0, dtype=int)]
    for level in np.unique(section):
        order = rng.permutation(np.flatnonzero(section == level))
        place, end = coordinates[order], len(order)
        while end > 1:  # cells in the second half of the first ``end`` ones, among these; then the half before
            start = min(max(end // 2, 1), end - 1) if end > m + 1 else 1
            target, source = _nearest_before(place[:end], np.arange(start, end), m)
            rows.append(order[target])
            columns.append(order[source])
            end = start
    return _ones(np.concatenate(rows), np.concatenate(columns), len(coordinates))


def _nearest_before(place: np.ndarray, targets: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The m nearest cells with a smaller number, of each of these cells; or all of them if there are fewer."""
    tree, pieces = cKDTree(place), []
    k = min(2 * m + 8, len(place))
    while len(targets):
        near = tree.query(place[targets], k=np.arange(1, k + 1))[1]
        earlier = near < targets[:, None]
        enough = (earlier.sum(1) >= np.minimum(m, targets)) | (k == len(place))
        chosen = earlier & (earlier.cumsum(1) <= m) & enough[:, None]
        row, column = chosen.nonzero()
        pieces.append((targets[row], near[row, column]))
        targets, k = targets[~enough], min(2 * k, len(place))
    return np.concatenate([t for t, _ in pieces]), np.concatenate([s for _, s in pieces])


def nearest_given(
    coordinates: np.ndarray, m: int, section: np.ndarray, targets: np.ndarray, given: np.ndarray
) -> sparse.csr_matrix:
    """For every cell among ``targets`` the m nearest cells of its section among ``given`` [n, n]; both are masks."""
    rows, columns = [np.zeros(0, dtype=int)], [np.zeros(0, dtype=int)]
    for level in np.unique(section[targets]):
        own, others = (np.flatnonzero(mask & (section == level)) for mask in (targets, given))
        k = min(m, len(others))
        if k:
            near = cKDTree(coordinates[others]).query(coordinates[own], k=np.arange(1, k + 1))[1]
            rows.append(np.repeat(own, k))
            columns.append(others[near].ravel())
    return _ones(np.concatenate(rows), np.concatenate(columns), len(coordinates))


def sections(predecessors: sparse.csr_matrix) -> np.ndarray:
    """The section of every cell [n]: cells that predecessors connect. A cell without any is a section of its own."""
    return connected_components(predecessors, directed=False)[1]


def patches(places: np.ndarray, section: np.ndarray, rng: np.random.Generator, side: float = PATCH) -> np.ndarray:
    """All cells in random order [n], those of a small patch of tissue one after the other.

    A minibatch of patches contains most of the predecessors of its cells. The grid of patches is at a random place and
    angle, so that every cell has every neighbour beside it in some epoch. ``side`` is in the unit of ``places``.
    """
    known = np.isfinite(places).all(1)
    turned = np.where(known[:, None], places, 0.0)
    turn = np.linalg.qr(rng.normal(size=(places.shape[1],) * 2))[0]
    tile = np.floor(turned @ turn / side + rng.uniform(size=places.shape[1])).astype(int)
    own = np.where(known, 0, np.arange(1, len(places) + 1))  # a cell without coordinates is a patch by itself
    patch = np.unique(np.column_stack([section, own, tile]), axis=0, return_inverse=True)[1].ravel()
    return np.lexsort([rng.uniform(size=len(places)), rng.permutation(patch.max() + 1)[patch]])


def _ones(rows: np.ndarray, columns: np.ndarray, n: int) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(n, n))
