"""Several AnnData as one, cells under cells, with the genes that all of them have or that any of them has."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import anndata
import pandas as pd
from anndata import AnnData

from pyroscvi.data.checks import counts_of
from pyroscvi.data.genes import match

if TYPE_CHECKING:
    from pyroscvi.data.fields import Fields

__all__ = ["merged"]


def merged(
    several: Sequence[AnnData] | Mapping[str, AnnData], fields: "Fields", genes: Literal["intersection", "union"]
) -> AnnData:
    """One AnnData with what ``fields`` name.

    A batch or a section that is in no obs is the data set itself: its key, or its number. Sections of different data
    sets are different sections, and cells whose names collide are told apart by their data set.
    """
    if not isinstance(several, Mapping | list | tuple):
        raise TypeError(f"cells are read from an AnnData, or a list or dict of them, not from {type(several).__name__}")
    table = several if isinstance(several, Mapping) else {str(number): adata for number, adata in enumerate(several)}
    if not table:
        raise ValueError("nothing to read: no AnnData was given")
    if genes not in ("intersection", "union"):
        raise ValueError(f"genes of several data sets are their 'intersection' or their 'union', not {genes!r}")
    if fields.spatial is not None and fields.section is None:
        raise ValueError(
            "several data sets in space: name their sections, Fields(section=...), so that none are joined"
        )
    names = pd.Index([]).append([adata.obs_names for adata in table.values()])
    narrow = {key: _narrowed(adata, key, fields, list(table.values())) for key, adata in table.items()}
    join: Literal["inner", "outer"] = "outer" if genes == "union" else "inner"
    return anndata.concat(narrow, join=join, fill_value=0, index_unique=None if names.is_unique else "-")


def _narrowed(adata: AnnData, key: str, fields: "Fields", several: Sequence[AnnData]) -> AnnData:
    """Checked counts, and the columns that are asked for; a column that only others have is missing everywhere."""
    names, columns = match(adata.var_names, None)
    counts = counts_of(adata, fields.counts, columns, names)
    told = pd.DataFrame(index=adata.obs_names)
    for name in (
        fields.batch,
        fields.label,
        fields.section,
        *fields.categories,
        *fields.covariates,
        fields.size_factor,
    ):
        if name in adata.obs:
            numeric = name in (*fields.covariates, fields.size_factor)
            told[name] = adata.obs[name] if numeric else adata.obs[name].astype(object)
        elif any(name in other.obs for other in several):
            told[name] = pd.Series(index=told.index, dtype=object)
        elif name is not None and name in (fields.batch, fields.section):
            told[name] = key
    if fields.section is not None and fields.section in adata.obs:
        told[fields.section] = key + "/" + adata.obs[fields.section].astype(str)
    return AnnData(
        X=counts if fields.counts is None else None,
        layers={} if fields.counts is None else {fields.counts: counts},
        obs=told,
        var=pd.DataFrame(index=list(names)),
        obsm={
            name: adata.obsm[name]
            for name in (fields.belief, fields.spatial)
            if name is not None and name in adata.obsm
        },
    )
