"""Files of cells, opened without reading their counts: h5ad, zarr, HDF5 batch files, and folders of any of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset

from pyroscvi.names import listed

Data: TypeAlias = str | Path | AnnData | Sequence["str | Path | AnnData"] | Mapping[str, "str | Path | AnnData"]

KINDS = (".h5ad", ".zarr", ".h5", ".hdf5")


class Opened(NamedTuple):
    """Cells whose counts are on disk.

    in_memory  obs, var and obsm of these cells
    on_disk    the AnnData of the whole file, with its counts; ``in_memory`` may be some of its cells and genes
    """

    in_memory: AnnData
    on_disk: AnnData

    @property
    def rows(self) -> np.ndarray:
        """The row of each cell in the file [n]."""
        return _places(self.in_memory.obs_names, self.on_disk.obs_names, "cells")

    @property
    def columns(self) -> np.ndarray:
        """The column of each gene in the file [g]."""
        return _places(self.in_memory.var_names, self.on_disk.var_names, "genes")


def opened(data: Data) -> dict[str, Opened] | Opened:
    """The cells of a file; or of several files (a folder, a list, a dict), by name.

    A path to
        *.h5ad         AnnData, as ``adata.write_h5ad`` leaves it
        *.zarr         AnnData, as ``adata.write_zarr`` leaves it: a folder, in version 2 or 3 of the format
        *.h5, *.hdf5   a batch file: ``X`` (an array [n, g], or a CSR group as anndata writes them), ``genes`` and
                       ``cells`` (names), ``obs/...`` (a column each: ``obs/umi_count``, ``obs/SRX_accession``)
        a folder       all of these in it, by name; other files (``config.json``) are ignored
    or an AnnData whose counts are on disk, ``anndata.read_h5ad(path, backed="r")``, of which some cells or genes may
    have been picked.
    """
    if isinstance(data, AnnData):
        return _of_anndata(data)
    if isinstance(data, str | Path):
        path = Path(data)
        if not path.exists():
            raise ValueError(f"{path}: there is no such file or folder")
        return _of_folder(path) if path.is_dir() and not is_zarr(path) else _of_file(path)
    if not isinstance(data, Mapping | list | tuple):
        raise TypeError(f"cells are opened from a path, an AnnData on disk, or several, not from {type(data).__name__}")
    by_key = data if isinstance(data, Mapping) else {str(number): one for number, one in enumerate(data)}
    several: dict[str, Opened] = {}
    for key, one in by_key.items():
        file = opened(one)
        if not isinstance(file, Opened):
            raise ValueError(f"{key}: {one} is a folder: open it alone, or name its files")
        several[key] = file
    if not several:
        raise ValueError("nothing to open: no file was given")
    return several


def _of_folder(path: Path) -> dict[str, Opened]:
    files = sorted(file for file in path.iterdir() if file.suffix in KINDS)
    if not files:
        raise ValueError(f"{path} holds no files of cells: {listed(KINDS)} are known")
    are_unique = len({file.stem for file in files}) == len(files)
    return {file.stem if are_unique else file.name: _of_file(file) for file in files}


def _of_file(path: Path) -> Opened:
    try:
        if is_zarr(path):
            import zarr

            adata = _of_anndata_store(zarr.open_group(str(path), mode="r"))
        elif path.suffix == ".h5ad":
            adata = _of_anndata_store(h5py.File(path, "r"))
        elif path.suffix in KINDS:
            adata = _of_batch_file(h5py.File(path, "r"))
        else:
            raise ValueError(f"its name ends in none of {listed(KINDS)}")
    except Exception as error:  # h5py, zarr and anndata raise many kinds
        raise ValueError(f"{path} cannot be opened: {error}") from error
    return Opened(adata, adata)


def _of_anndata_store(store: Any) -> AnnData:
    """An AnnData whose X and layers stay on disk."""
    layers, obsm = (store.get(name, {}) for name in ("layers", "obsm"))
    return AnnData(
        X=_matrix(store["X"]) if "X" in store else None,
        layers={name: _matrix(layers[name]) for name in layers},
        obs=read_elem(store["obs"]),
        var=pd.DataFrame(index=read_elem(store["var"]).index),
        obsm={name: obsm[name] if hasattr(obsm[name], "shape") else read_elem(obsm[name]) for name in obsm},
    )


def _of_batch_file(file: h5py.File) -> AnnData:
    if missing := [name for name in ("X", "genes", "cells") if name not in file]:
        raise ValueError(f"it has no {listed(missing)}; a batch file holds X, genes, cells and obs")
    cells, genes = _values(file["cells"]), _values(file["genes"])
    shape = tuple(map(int, _matrix(file["X"]).shape))
    if shape != (len(cells), len(genes)):
        raise ValueError(f"its X is of shape {shape}, and it names {len(cells):,} cells and {len(genes):,} genes")
    columns = {name: _values(column) for name, column in file.get("obs", {}).items()}
    if short := [name for name, values in columns.items() if len(values) != len(cells)]:
        raise ValueError(f"its obs/{short[0]} is of {len(columns[short[0]]):,} cells, and it names {len(cells):,}")
    obs, var = pd.DataFrame(columns, index=cells.astype(str)), pd.DataFrame(index=genes.astype(str))
    return AnnData(X=_matrix(file["X"]), obs=obs, var=var)


def _of_anndata(adata: AnnData) -> Opened:
    if adata.isbacked:
        return Opened(adata, _of_file(Path(str(adata.filename))).on_disk)
    on_disk = [place for place in (adata.X, *adata.layers.values()) if not isinstance(place, np.ndarray)]
    if not any(hasattr(place, "group") or hasattr(place, "chunks") for place in on_disk):
        raise ValueError(
            "this AnnData is in memory: read it, Fields(...).read(adata). A path, or anndata.read_h5ad(path, "
            "backed='r'), is opened on disk"
        )
    return Opened(adata, adata)


def _matrix(place: Any) -> Any:
    """A matrix at a place in a file: an array, or a sparse matrix that is read by rows."""
    return place if hasattr(place, "shape") else sparse_dataset(place)


def _values(dataset: h5py.Dataset) -> np.ndarray:
    return dataset.asstr()[:].astype(object) if h5py.check_string_dtype(dataset.dtype) else dataset[:]


def is_zarr(path: Path) -> bool:
    return path.is_dir() and any((path / name).exists() for name in (".zgroup", "zarr.json", ".zmetadata"))


def _places(names: pd.Index, among: pd.Index, what: str) -> np.ndarray:
    """The place of each name among all names of the file; names are compared only where some were left out."""
    if len(names) == len(among):
        return np.arange(len(names))
    if not among.is_unique:
        raise ValueError(f"{what} of the file have repeated names, so they cannot be told apart: open the whole file")
    places = among.get_indexer(names)
    if (places < 0).any():
        raise ValueError(f"{what} were renamed since the file was opened: {listed(names[places < 0])} are not in it")
    return places
