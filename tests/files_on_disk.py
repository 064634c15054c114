"""Files of every form that ``Fields.open`` reads, written from an AnnData."""

import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from anndata import AnnData


def batch_file(adata: AnnData, path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["X"] = np.asarray(adata.X.todense())
        file["genes"], file["cells"] = list(adata.var_names), list(adata.obs_names)
        for name in adata.obs:
            values = adata.obs[name]
            file[f"obs/{name}"] = list(values.astype(str)) if values.dtype.kind in "OU" or name != "size" else values
    return path


def h5ad(adata: AnnData, path: Path, **options) -> Path:
    adata.write_h5ad(path, **options)
    return path


def dense(adata: AnnData, path: Path) -> Path:
    adata = adata.copy()
    adata.X = adata.X.toarray()
    return h5ad(adata, path)


def zarr(adata: AnnData, path: Path, version: int = 3) -> Path:
    pytest.importorskip("zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about defaults of later versions of anndata
        with anndata.settings.override(zarr_write_format=version):
            adata.write_zarr(path)
    return path


def folder(adata: AnnData, path: Path, write=h5ad, suffix: str = "h5ad") -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    for i, rows in enumerate(np.array_split(np.arange(adata.n_obs), 3)):
        part = adata[rows].copy()
        write(part[:, ::-1].copy() if i == 1 else part, path / f"batch_{i:04}.{suffix}")
    return path


FORMS = {
    "h5ad": lambda adata, path: h5ad(adata, path / "cells.h5ad"),
    "gzip": lambda adata, path: h5ad(adata, path / "cells.h5ad", compression="gzip"),
    "dense": lambda adata, path: dense(adata, path / "cells.h5ad"),
    "zarr": lambda adata, path: zarr(adata, path / "cells.zarr"),
    "zarr 2": lambda adata, path: zarr(adata, path / "cells.zarr", 2),
    "batch file": lambda adata, path: batch_file(adata, path / "cells.h5"),
    "folder": lambda adata, path: folder(adata, path / "cells"),
    "folder of batch files": lambda adata, path: folder(adata, path / "cells", batch_file, "h5"),
    "list": lambda adata, path: [h5ad(adata[a:b], path / f"{a}.h5ad") for a, b in ((0, 90), (90, 91), (91, 203))],
    "backed": lambda adata, path: anndata.read_h5ad(h5ad(adata, path / "cells.h5ad"), backed="r"),
}
