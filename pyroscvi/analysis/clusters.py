"""Clusters of cells: Leiden communities of the graph of nearest neighbours in a latent space, through scanpy."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score

from pyroscvi.data.process import process_kept

CLUSTER = "pyroscvi_cluster"  # the column of obs
NEIGHBOURS = 15
MIN_CELLS = 3


class Agreement(NamedTuple):
    """The adjusted Rand index of two groupings of the same cells, and its standard error over cells."""

    rand_index: float
    standard_error: float


def neighbours_of(adata: AnnData, key: str, seed: int = 0) -> None:
    """Add the graph of nearest neighbours in ``obsm[key]`` to an AnnData, where scanpy looks for it."""
    import scanpy

    if adata.n_obs < MIN_CELLS:
        raise ValueError(f"{adata.n_obs} cells are too few for a graph of neighbours: give at least {MIN_CELLS}")
    with process_kept():
        scanpy.pp.neighbors(adata, n_neighbors=min(NEIGHBOURS, adata.n_obs - 1), use_rep=key, random_state=seed)


def clusters(adata: AnnData, resolution: float = 1.0, seed: int = 0, key: str = CLUSTER) -> None:
    """Add Leiden clusters of the graph of neighbours to ``obs[key]``, the largest first [Traag et al., 2019].

    resolution   larger values give more clusters

    References
        Traag, V. A., Waltman, L. and van Eck, N. J. (2019) From Louvain to Leiden: guaranteeing well-connected
        communities. Sci Rep 9, 5233. doi:10.1038/s41598-019-41695-z
    """
    import scanpy

    with process_kept():
        scanpy.tl.leiden(
            adata, resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed, key_added=key
        )


def agreement(first: Sequence, second: Sequence, draws: int = 200, seed: int = 0) -> Agreement:
    """How alike two groupings are: 1 if they are the same, 0 on average if one is random. The error is by bootstrap."""
    a, b = (np.unique(np.asarray(list(map(str, one))), return_inverse=True)[1] for one in (first, second))
    rng = np.random.default_rng(seed)
    resampled = [adjusted_rand_score(a[rows], b[rows]) for rows in rng.integers(len(a), size=(draws, len(a)))]
    return Agreement(adjusted_rand_score(a, b), float(np.std(resampled, ddof=1)))


def stability(latents: Sequence[np.ndarray], resolution: float = 1.0, seed: int = 0) -> list[float]:
    """Adjusted Rand indices of the clusters of every two latent spaces of the same cells, such as of two seeds."""
    grouped = []
    for z in latents:
        adata = AnnData(obsm={"z": z})
        neighbours_of(adata, "z", seed)
        clusters(adata, resolution, seed, "cluster")
        grouped.append(adata.obs["cluster"].to_numpy())
    return [float(adjusted_rand_score(one, other)) for one, other in combinations(grouped, 2)]
