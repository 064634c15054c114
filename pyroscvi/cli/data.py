"""Reads the files that the command line is given."""

import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from anndata import AnnData, read_h5ad

from pyroscvi.data.cells import Cells
from pyroscvi.data.datasets import highly_variable
from pyroscvi.data.fields import Fields
from pyroscvi.data.files import Opened, opened
from pyroscvi.data.genes import unique_cells
from pyroscvi.data.stored import Stored

MAX_CELLS_FOR_GENES = 20_000  # cells on disk from which variable genes are chosen


def read_data(file: Path) -> AnnData:
    """An AnnData from an h5ad file, with unique names of cells; ValueError in one line if the file cannot be read."""
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Observation names are not unique")  # we say what becomes of them
            adata = read_h5ad(file)
    except Exception as error:  # h5py and anndata raise many kinds
        raise ValueError(f"{file} cannot be read as h5ad: {error}") from error
    adata.obs_names = unique_cells(adata.obs_names)
    return adata


def read_cells(
    file: Path, fields: dict[str, Any], reading: dict[str, Any], hvg: int | None
) -> tuple[Cells, pd.DataFrame]:
    """The cells of an h5ad file in memory, at its ``hvg`` most variable genes if a number is given; and their obs."""
    adata = read_data(file)
    genes = None if hvg is None else highly_variable(adata, hvg, fields["counts"], fields["batch"])
    cells = Fields(**fields, genes=genes).read(adata, **reading)
    return cells, adata.obs.loc[cells.names]


def open_cells(
    place: Path, fields: dict[str, Any], reading: dict[str, Any], hvg: int | None, seed: int
) -> tuple[Cells, pd.DataFrame]:
    """The cells of a file or a folder of files, with their counts left on disk; and their obs.

    Variable genes are chosen on 20,000 random cells, or on all if there are fewer.
    """
    files = opened(place)
    data = files.in_memory if isinstance(files, Opened) else {key: file.in_memory for key, file in files.items()}
    cells = Fields(**fields).open(data, **reading)
    if hvg is not None:
        drawn = torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))[:MAX_CELLS_FOR_GENES]
        some = cells.take(drawn.sort().values)
        obs = pd.DataFrame({} if some.batch is None else {"batch": some.batch.numpy().astype(str)}, index=some.names)
        adata = AnnData(X=some.counts, obs=obs, var=pd.DataFrame(index=np.asarray(cells.genes, dtype=object)))
        genes = highly_variable(adata, hvg, batch=None if some.batch is None else "batch")
        cells = Fields(**fields, genes=genes).open(data, **reading)
    stored = cast(Stored, cells.counts)
    obs = data.obs if isinstance(data, AnnData) else pd.concat([adata.obs for adata in data.values()])
    return cells, obs.iloc[stored.rows].set_axis(cells.names)  # cells without counts may be left out
