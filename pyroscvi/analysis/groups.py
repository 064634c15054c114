"""Groups of cells: levels of a column of obs or of a field, or given values; and which groups are compared."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData

from pyroscvi.data.cells import Cells
from pyroscvi.data.columns import codes
from pyroscvi.names import among, listed

REST = "rest"
By: TypeAlias = str | Sequence[str] | pd.Series | np.ndarray


class Groups(NamedTuple):
    """The group of every cell [n], -1 where a cell is in none; and the names of the groups."""

    codes: np.ndarray
    names: tuple[str, ...]


def groups_of(data: Cells | AnnData, cells: Cells, by: By, role: str) -> Groups:
    """The groups that a column of obs, a field, or one value for each cell makes; missing values are in no group.

    data   what the caller was given, with the columns of obs if it is an AnnData
    cells  the same cells, as the fit reads them: their fields are looked up second
    role   the argument, for errors
    """
    if not isinstance(by, str):
        if len(by) != len(cells):
            raise ValueError(f"{role}: {len(by):,} values for {len(cells):,} cells: give one value for each cell")
        values = pd.Series(by if isinstance(by, pd.Series) else list(by)).reset_index(drop=True)
        return Groups(*codes(values, role, missing=True, optional=False))
    columns = [] if isinstance(data, Cells) else list(map(str, data.obs))
    if by in columns:
        return Groups(*codes(data.obs[by], f"{role} (obs[{by!r}])", missing=True, optional=False))  # type: ignore
    if by in cells.categories:
        return Groups(cells.categories[by].cpu().numpy(), cells.levels[by])
    known = [*columns, *(name for name in cells.categories if name not in columns)]
    raise KeyError(f"{role}: there is no column or field {by!r}; there are {listed(known, 30) or 'none'}")


def wanted(group: Groups, groups: str | Sequence[str] | None, reference: str) -> list[tuple[int, int | None]]:
    """Codes of the groups to compare, each with that of its reference; None stands for all other cells."""
    place = {name: code for code, name in enumerate(group.names)}
    other = None if reference == REST and REST not in place else among(reference, place, "group")
    names = list(place) if groups is None else [groups] if isinstance(groups, str) else list(groups)
    ones = [among(name, place, "group") for name in names]
    return [(one, other) for one in ones if one != other]
