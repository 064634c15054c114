"""Several AnnData as one, cells under cells, with the genes that all of them have or that any of them has."""

import warnings
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from pyroscvi.advice import field
from pyroscvi.data.columns import column, floats_of
from pyroscvi.data.genes import match, numbered
from pyroscvi.names import listed

if TYPE_CHECKING:
    from pyroscvi.data.fields import Fields


def merged(
    several: Sequence[AnnData] | Mapping[str, AnnData], fields: "Fields", genes: Literal["intersection", "union"]
) -> AnnData:
    """One AnnData with the counts and columns that ``fields`` name.

    If no obs has the column of the batch or of the section, the data set itself is it: its key, or its number. Sections
    of different data sets are different sections. If cells of two data sets have the same name, the key of their data
    set is added to all names. Coordinates and beliefs that a data set does not have are NaN.
    """
    if not isinstance(several, Mapping | list | tuple):
        raise TypeError(f"cells are read from an AnnData, or a list or dict of them, not from {type(several).__name__}")
    by_key = several if isinstance(several, Mapping) else {str(number): adata for number, adata in enumerate(several)}
    if not by_key:
        raise ValueError("nothing to read: no AnnData was given")
    for key, adata in by_key.items():
        if not isinstance(adata, AnnData):
            raise TypeError(f"{key}: cells are read from an AnnData, not from {type(adata).__name__}")
    if fields.spatial is not None and fields.section is None:
        raise ValueError(f"several data sets in space: name their sections, {field('section')}, to keep them apart")
    narrow = _narrowed(by_key, fields)
    for key, adata in by_key.items():
        names, columns = match(adata.var_names, None)
        counts = fields.matrix(adata, columns, names)
        if fields.layer is None:
            narrow[key].X = counts
        else:
            narrow[key].layers[fields.layer] = counts
    return _joined(narrow, genes)


def outlined(
    several: Mapping[str, AnnData], fields: "Fields", genes: Literal["intersection", "union"], missing: str
) -> AnnData:
    """The same without counts, of data sets whose counts stay on disk; warns about genes that some files lack."""
    for name in fields.columns():
        without = [key for key, adata in several.items() if name not in adata.obs]
        if name != fields.label and without and len(without) < len(several):
            raise ValueError(f"obs of {listed(without)} has no column {name!r}, which the other files have")
    joined = _joined(_narrowed(several, fields), genes)
    if not joined.n_vars:
        first, *others = several.items()
        apart = next((key for key, adata in others if not adata.var_names.isin(first[1].var_names).any()), first[0])
        raise ValueError(f"no gene is in all files: {apart} shares none with {first[0]}. Read genes='union', or rename")
    what = "are left out"
    if genes == "union":
        what = "count as zero there" if missing == "zero" else "are left out of the probability of their cells"
    _warn_of_lacking({key: numbered(adata.var_names)[0] for key, adata in several.items()}, fields.genes, what)
    return joined


def _warn_of_lacking(several: Mapping[str, pd.Index], wanted: Sequence[str] | None, what: str) -> None:
    """Warn about files that lack genes which other files have, or which are wanted."""
    everything = pd.Index(wanted) if wanted else reduce(pd.Index.union, several.values())
    lacking = {key: everything.difference(names) for key, names in several.items()}
    if any(len(names) for names in lacking.values()):
        by_file = [f"{key} lacks {len(names):,} ({listed(names, 3)})" for key, names in lacking.items() if len(names)]
        shown = "; ".join(by_file[:5]) + (f"; and {len(by_file) - 5:,} more files" if len(by_file) > 5 else "")
        warnings.warn(f"genes that some files lack {what}: {shown}", UserWarning, stacklevel=4)


def _joined(narrow: Mapping[str, AnnData], genes: Literal["intersection", "union"]) -> AnnData:
    names = [adata.obs_names for adata in narrow.values()]
    apart = sum(own.nunique() for own in names) == names[0].append(names[1:]).nunique()
    join: Literal["inner", "outer"] = "outer" if genes == "union" else "inner"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique")
        return anndata.concat(dict(narrow), join=join, fill_value=0, index_unique=None if apart else "-")


def _narrowed(several: Mapping[str, AnnData], fields: "Fields") -> dict[str, AnnData]:
    """Each data set with the columns and tables that ``fields`` name, without counts.

    A column or table that only other data sets have is filled with missing values.
    """
    keys = [name for name in (fields.belief, fields.spatial, fields.proteins, fields.embedding) if name is not None]
    tables = {name: _tables(several, name, union=name == fields.proteins) for name in keys}
    return {
        key: AnnData(
            obs=_columns(key, adata, fields, several),
            var=pd.DataFrame(index=list(numbered(adata.var_names)[0])),
            obsm={name: by_key[key] for name, by_key in tables.items() if by_key},
        )
        for key, adata in several.items()
    }


def _columns(key: str, adata: AnnData, fields: "Fields", several: Mapping[str, AnnData]) -> pd.DataFrame:
    obs = pd.DataFrame(index=adata.obs_names)
    for name in fields.columns():
        if name in adata.obs:
            values = column(adata.obs, name, key)
            obs[name] = values if name in (*fields.covariates, fields.size_factor) else values.astype(object)
        elif any(name in other.obs for other in several.values()):
            obs[name] = pd.Series(index=obs.index, dtype=object)
        elif name in (fields.batch, fields.section):
            obs[name] = key
    if fields.section is not None and fields.section in adata.obs:
        section = adata.obs[fields.section]
        obs[fields.section] = (key + "/" + section.astype(str)).where(section.notna())
    return obs


def _tables(several: Mapping[str, AnnData], name: str, union: bool = False) -> dict[str, Any]:
    """The table ``name`` of obsm by data set, NaN where a data set has none; {} if no data set has it.

    union   data sets may have different columns: the result has all of them, NaN where a data set lacks one
    """
    given = {key: adata.obsm[name] for key, adata in several.items() if name in adata.obsm}
    tables = {key: pd.DataFrame(floats_of(values, f"{key}: obsm[{name!r}]")) for key, values in given.items()}
    if not tables:
        return {}
    for key, values in given.items():
        if isinstance(values, pd.DataFrame):
            tables[key].columns = values.columns.astype(str)
    if union and all(isinstance(values, pd.DataFrame) for values in given.values()):
        every = list(dict.fromkeys(column for own in tables.values() for column in own.columns))
        tables = {key: own.reindex(columns=every) for key, own in tables.items()}
    (first, one), *others = tables.items()
    for key, other in others:
        if list(other.columns) != list(one.columns):
            raise ValueError(
                f"the columns of obsm[{name!r}] differ: {first} has {listed(one.columns)}, "
                f"{key} {listed(other.columns)}"
            )
    for key, adata in several.items():
        values = tables[key].to_numpy() if key in tables else np.full((adata.n_obs, one.shape[1]), np.nan)
        tables[key] = pd.DataFrame(values, columns=one.columns, index=adata.obs_names)
    has_names = isinstance(given[first], pd.DataFrame)
    return tables if has_names else {key: one.to_numpy() for key, one in tables.items()}
