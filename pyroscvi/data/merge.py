"""Several AnnData as one, cells under cells, with the genes that all of them have or that any of them has."""

import warnings
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Literal

import anndata
import pandas as pd
from anndata import AnnData

from pyroscvi.data.checks import counts_of, listed
from pyroscvi.data.genes import match, numbered

if TYPE_CHECKING:
    from pyroscvi.data.fields import Fields

__all__ = ["merged", "outlined"]


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
    _refuse(genes)
    if fields.spatial is not None and fields.section is None:
        raise ValueError(
            "several data sets in space: name their sections, Fields(section=...), so that none are joined"
        )
    narrow = {key: _narrowed(adata, key, fields, list(table.values())) for key, adata in table.items()}
    for key, adata in table.items():
        names, columns = match(adata.var_names, None)
        counts = counts_of(adata, fields.counts, columns, names)
        if fields.counts is None:
            narrow[key].X = counts
        else:
            narrow[key].layers[fields.counts] = counts
    return _joined(narrow, genes)


def outlined(several: Mapping[str, AnnData], fields: "Fields", genes: Literal["intersection", "union"]) -> AnnData:
    """The same without counts, of data sets whose counts stay on disk; a warning says what genes they do not share."""
    _refuse(genes)
    for name in filter(None, (fields.batch, *fields.categories, *fields.covariates, fields.size_factor)):
        without = [key for key, adata in several.items() if name not in adata.obs]
        if without and len(without) < len(several):
            raise ValueError(f"obs of {listed(without)} has no column {name!r}, which the other files have")
    joined = _joined(
        {key: _narrowed(adata, key, fields, list(several.values())) for key, adata in several.items()}, genes
    )
    if not joined.n_vars:
        first, *others = several.items()
        apart = next((key for key, adata in others if not adata.var_names.isin(first[1].var_names).any()), first[0])
        raise ValueError(f"no gene is in all files: {apart} shares none with {first[0]}. Read genes='union', or rename")
    _tell_apart({key: numbered(adata.var_names)[0] for key, adata in several.items()}, fields.genes, genes)
    return joined


def _tell_apart(several: Mapping[str, pd.Index], wanted: Sequence[str] | None, genes: str) -> None:
    """Warn of files that lack genes which others have, or which are wanted."""
    everything = pd.Index(wanted or ()) if wanted else reduce(pd.Index.union, several.values())
    lacking = {key: everything.difference(names) for key, names in several.items()}
    if any(len(names) for names in lacking.values()):
        told = [f"{key} lacks {len(names):,} ({listed(names, 3)})" for key, names in lacking.items() if len(names)]
        what = "count as zero there" if genes == "union" else "are left out"
        shown = "; ".join(told[:5]) + (f"; and {len(told) - 5:,} more files" if len(told) > 5 else "")
        warnings.warn(f"genes that some files lack {what}: {shown}", UserWarning, stacklevel=4)


def _refuse(genes: str) -> None:
    if genes not in ("intersection", "union"):
        raise ValueError(f"genes of several data sets are their 'intersection' or their 'union', not {genes!r}")


def _joined(narrow: Mapping[str, AnnData], genes: Literal["intersection", "union"]) -> AnnData:
    names = pd.Index([]).append([adata.obs_names for adata in narrow.values()])
    join: Literal["inner", "outer"] = "outer" if genes == "union" else "inner"
    return anndata.concat(dict(narrow), join=join, fill_value=0, index_unique=None if names.is_unique else "-")


def _narrowed(adata: AnnData, key: str, fields: "Fields", several: Sequence[AnnData]) -> AnnData:
    """The columns that are asked for, without counts; a column that only others have is missing everywhere."""
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
    wanted = (name for name in (fields.belief, fields.spatial) if name is not None and name in adata.obsm)
    return AnnData(
        obs=told,
        var=pd.DataFrame(index=list(numbered(adata.var_names)[0])),
        obsm={name: adata.obsm[name] for name in wanted},
    )
