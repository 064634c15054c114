"""Reading what the command line is pointed at."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData, read_h5ad
from anndata.utils import make_index_unique

from pyroscvi.data.cells import Cells
from pyroscvi.data.datasets import highly_variable
from pyroscvi.data.fields import Fields
from pyroscvi.data.files import Opened, opened

__all__ = ["open_cells", "read_cells", "read_data"]

ENOUGH = 20_000  # cells on disk from which genes are chosen


def read_data(file: Path) -> AnnData:
    """An AnnData from an h5ad file; ValueError in one line where there is none."""
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Observation names are not unique")
            adata = read_h5ad(file)
    except Exception as error:  # h5py and anndata raise many kinds
        raise ValueError(f"{file} cannot be read as h5ad: {error}") from error
    adata.obs_names = unique(adata.obs_names, file)
    return adata


def unique(names: pd.Index, file: Path) -> pd.Index:
    """The names of cells, with a number behind every one that is there already: the same ones at every reading."""
    if names.is_unique:
        return names
    first = names[names.duplicated()][0]
    warnings.warn(f"{file}: names of cells repeat: they are told apart as {first}, {first}-1, ...", stacklevel=2)
    return make_index_unique(names.astype(str))


def read_cells(file: Path, fields: dict[str, Any], hvg: int | None) -> tuple[Cells, pd.DataFrame]:
    """The cells of an h5ad file in memory, at its most variable genes if so many are named; and their obs."""
    adata = read_data(file)
    genes = None if hvg is None else highly_variable(adata, hvg, fields["counts"], fields["batch"])
    return Fields(**fields, genes=genes).read(adata), adata.obs


def open_cells(place: Path, fields: dict[str, Any], hvg: int | None, seed: int) -> tuple[Cells, pd.DataFrame]:
    """The cells of a file or a folder of files, with their counts left on disk; and their obs.

    Variable genes are chosen on 20,000 cells drawn at random, or all if there are fewer.
    """
    found = opened(place)
    several = {"": found} if isinstance(found, Opened) else found
    there = found.told if isinstance(found, Opened) else {name: one.told for name, one in found.items()}
    cells = Fields(**fields).open(there)
    if hvg is not None:
        drawn = torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))[:ENOUGH]
        some = cells.take(drawn.sort().values)
        obs = pd.DataFrame({} if some.batch is None else {"batch": some.batch.numpy().astype(str)}, index=some.names)
        adata = AnnData(X=some.counts, obs=obs, var=pd.DataFrame(index=np.asarray(cells.genes, dtype=object)))
        genes = highly_variable(adata, hvg, batch=None if some.batch is None else "batch")
        cells = Fields(**fields, genes=genes).open(there)
    obs = pd.concat([one.told.obs for one in several.values()])
    if cells.names is not None:
        cells = replace(cells, names=unique(pd.Index(cells.names), place).to_numpy(dtype=object))
    return cells, obs.set_axis(cells.names)
