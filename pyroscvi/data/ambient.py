"""The ambient profile: what floats in the liquid of droplets, from droplets without a cell."""

import numpy as np
import pandas as pd
from anndata import AnnData

from pyroscvi.data.checks import counts_of
from pyroscvi.data.genes import numbered


def ambient(droplets: AnnData, most: int = 100, counts: str | None = None) -> tuple[pd.Series, float]:
    """The share of every gene in the counts of empty droplets, and their mean total count.

        profile, total = ambient(raw)                        # before cells were called
        page = Ambient().known(profile, total, cells)

    droplets  all droplets of an experiment, genes as for the cells
    most      droplets with at most so many counts, and at least one, are empty
    counts    a layer; None is X

    Raises ValueError where no droplet is empty, and for values that are not counts.
    """
    names, _ = numbered(droplets.var_names)
    matrix = counts_of(droplets, counts, np.arange(droplets.n_vars), names)
    total = np.asarray(matrix.sum(1)).ravel()
    empty = (total >= 1) & (total <= most)
    if not empty.any():
        raise ValueError(f"no droplet has 1 to {most} counts: give all droplets, before cells were called")
    of_gene = np.asarray(matrix[empty].sum(0), dtype=np.float64).ravel()
    return pd.Series(of_gene / of_gene.sum(), index=list(names)), float(total[empty].mean())
