"""Surface proteins of cells: read from obsm, or from the modalities of a MuData."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from pyroscvi.data.checks import check_numbers
from pyroscvi.data.columns import floats_of, names_of, table
from pyroscvi.names import listed

LARGEST_COUNT = 2**24  # float32 holds counts up to this exactly


def read_proteins(
    adata: AnnData, key: str | None, known: Sequence[str] | None
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Counts of proteins [n, p], NaN where not measured, and their names; None if no key is named.

    known   names from before: columns of a DataFrame are matched to them, and those that it lacks were not measured.
            Data without this key are then cells without proteins
    """
    if key is None or (known is not None and key not in adata.obsm):
        return None, None if known is None else tuple(known)
    values, role = table(adata, key, "proteins"), f"proteins (obsm[{key!r}])"
    counts = floats_of(values, role)
    right = np.isnan(counts) | ((counts >= 0) & (counts <= LARGEST_COUNT) & (counts == np.floor(counts)))
    check_numbers(counts, adata.obs_names, role, "counts, or NaN where a protein was not measured", right)
    names = names_of(values, counts, role, "proteins", known)
    if known is None or names == tuple(known):
        return counts, names
    if not set(known) & set(names):
        raise ValueError(f"{role} has none of the proteins {listed(known)}; it has {listed(names)}: rename its columns")
    return pd.DataFrame(counts, columns=list(names)).reindex(columns=list(known)).to_numpy(copy=True), tuple(known)


def from_mudata(mdata: Any, rna: str = "rna", proteins: str = "prot") -> AnnData:
    """The AnnData of the RNA of a MuData, with its proteins as a table in ``obsm["proteins"]``.

        adata = from_mudata(mudata.read_h5mu("cite.h5mu"))
        cells = Fields(proteins="proteins", batch="donor").read(adata)

    rna, proteins   names of the two modalities; each holds counts in X

    Cells are those of the RNA, by name; a cell that the other modality lacks has NaN. Columns of ``mdata.obs`` that the
    RNA does not have are added. Nothing is copied but obs. KeyError for a modality that does not exist.
    """
    for name in (rna, proteins):
        if name not in mdata.mod:
            remedy = "name them: from_mudata(mdata, rna=..., proteins=...)"
            raise KeyError(f"the MuData has no modality {name!r}; it has {listed(mdata.mod)}: {remedy}")
    genes, surface = mdata.mod[rna], mdata.mod[proteins]
    counts = surface.X.toarray() if sparse.issparse(surface.X) else np.asarray(surface.X)
    adata = AnnData(genes.X, genes.obs.copy(), genes.var, layers=dict(genes.layers), obsm=dict(genes.obsm))
    by_name = pd.DataFrame(counts.astype(np.float64), index=surface.obs_names, columns=surface.var_names)
    adata.obsm["proteins"] = by_name.reindex(adata.obs_names)
    for name in mdata.obs.columns.difference(adata.obs.columns):
        adata.obs[name] = mdata.obs[name].reindex(adata.obs_names)
    return adata
