"""Cells of any common file format, in memory: ``ps.read(path)``. The command line reads its files with it, too.

*.h5ad                 AnnData
*.zarr                 AnnData, or the table of a SpatialData store
*.h5mu                 MuData: its modality "rna", or the one that there is
*.h5, *.hdf5           10x Genomics' matrix, or a batch file: ``pyroscvi.data.files``
*.csv, *.tsv, *.txt    a table of counts with names; a row is a cell, or a gene if the header begins with "gene" or
                       "symbol". May end in .gz
*.json                 annotations of images in COCO's format: how many objects of each category an image has
a folder               10x Genomics' ``matrix.mtx``, ``barcodes.tsv`` and ``features.tsv`` (or ``genes.tsv``), all of
                       which may end in .gz; or files of the kinds above, one after the other, with the genes that
                       all of them have
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem
from scipy import sparse

from pyroscvi.advice import either
from pyroscvi.data.files import KINDS, is_zarr, opened
from pyroscvi.data.genes import numbered, unique_cells
from pyroscvi.names import listed

TABLES = (".csv", ".tsv", ".txt")
GENE_HEADERS = ("gene", "symbol")  # how the header of a table begins if its rows are genes


def read(path: str | Path, annotations: str | Path | None = None) -> AnnData:
    """The AnnData of a file or folder: the list above has the formats. Names of cells and genes are unique in it.

    annotations  a TSV or CSV file with a row for each cell, one column of which holds the names of the cells; its
                 columns are added to obs. Cells that it does not have get missing values

    Raises ValueError, in one line, for a file that does not exist or cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder")
    reader = _reader(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(Variable|Observation) names are not unique")  # they are numbered below
            adata = reader(path)
    except Exception as error:  # h5py, zarr, anndata, pandas and scanpy raise many kinds
        raise ValueError(f"{path} cannot be read: {error}") from error
    adata.obs_names = unique_cells(adata.obs_names)
    return adata if annotations is None else _annotated(adata, Path(annotations))


def stays_on_disk(path: Path) -> bool:
    """Whether counts of this kind of file or folder are best left on disk: ``Fields.open`` reads them in blocks."""
    return _reader(path) in (_zarr, _batch_file, _folder)


def _reader(path: Path) -> Callable[[Path], AnnData]:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if path.is_dir():
        if is_zarr(path):
            return _spatialdata if (path / "tables").is_dir() else _zarr
        return _10x_folder if any(path.glob("*matrix.mtx*")) else _folder
    by_suffix = {".h5ad": anndata.read_h5ad, ".h5mu": _mudata, ".json": coco} | dict.fromkeys(TABLES, _table)
    if suffix in (".h5", ".hdf5"):
        return _10x_file if _is_10x(path) else _batch_file
    if suffix not in by_suffix:
        known = listed((*KINDS, ".h5mu", *TABLES, ".json"))
        raise ValueError(f"{path} cannot be read: its name ends in none of {known}, and it is no folder")
    return by_suffix[suffix]


def _is_10x(path: Path) -> bool:
    try:
        with h5py.File(path) as file:
            return any(isinstance(group, h5py.Group) and "barcodes" in group for group in file.values())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _10x_file(path: Path) -> AnnData:
    import scanpy

    adata = scanpy.read_10x_h5(path)
    adata.var_names = numbered(adata.var_names)[0]
    return adata


def _10x_folder(path: Path) -> AnnData:
    import scanpy

    (matrix,) = path.glob("*matrix.mtx*")
    prefix, is_packed = matrix.name.partition("matrix.mtx")[::2]
    if not is_packed and not (path / f"{prefix}genes.tsv").exists():  # scanpy takes features.tsv for packed
        raise ValueError(f"it has matrix.mtx without genes.tsv: pack its files, gzip {path}/*")
    return scanpy.read_10x_mtx(path, prefix=prefix or None)


def _zarr(path: Path) -> AnnData:
    return anndata.read_zarr(path)


def _spatialdata(path: Path) -> AnnData:
    tables = sorted(place.name for place in (path / "tables").iterdir() if is_zarr(place))
    if len(tables) != 1:
        raise ValueError(f"it has {len(tables)} tables ({listed(tables) or 'none'}): give one, {path}/tables/NAME")
    return anndata.read_zarr(path / "tables" / tables[0])


def _mudata(path: Path) -> AnnData:
    with h5py.File(path) as file:
        names = list(file["mod"])
        chosen = "rna" if "rna" in names else names[0]
        if chosen != "rna" and len(names) > 1:
            raise ValueError(f'none of its modalities is called "rna": they are {listed(names)}')
        return read_elem(file["mod"][chosen])


def _batch_file(path: Path) -> AnnData:
    return _in_memory(opened(path).on_disk)  # type: ignore[union-attr]


def _folder(path: Path) -> AnnData:
    several = {name: _in_memory(file.on_disk) for name, file in opened(path).items()}  # type: ignore[union-attr]
    apart = pd.Index(np.concatenate([one.obs_names for one in several.values()])).is_unique
    return anndata.concat(several, join="inner", index_unique=None if apart else "-", merge="same")


def _in_memory(adata: AnnData) -> AnnData:
    def loaded(matrix: Any) -> Any:
        return matrix.to_memory() if hasattr(matrix, "to_memory") else matrix[:]

    layers = {name: loaded(adata.layers[name]) for name in adata.layers if name is not None}
    X = None if adata.X is None else loaded(adata.X)
    obsm = {name: table if isinstance(table, pd.DataFrame) else table[:] for name, table in adata.obsm.items()}
    return AnnData(X, layers=layers, obs=adata.obs, var=adata.var, obsm=obsm)


def _table(path: Path) -> AnnData:
    table = pd.read_csv(path, sep=_separator(path), index_col=0)
    if not len(table) or not table.shape[1]:
        raise ValueError("it has no numbers: a table has names in its first row and its first column")
    if text := [name for name, kind in table.dtypes.items() if kind.kind not in "buif"]:
        raise ValueError(f"columns {listed(text, 3)} do not hold numbers: the first column alone holds names")
    if str(table.index.name or "").lower().startswith(GENE_HEADERS):
        table = table.T
    obs, var = pd.DataFrame(index=table.index.astype(str)), pd.DataFrame(index=table.columns.astype(str))
    return AnnData(sparse.csr_matrix(table.to_numpy(np.float32)), obs=obs, var=var)


def _separator(path: Path) -> str:
    return "," if ".csv" in path.suffixes else "\t"


def coco(path: str | Path) -> AnnData:
    """Numbers of objects, images x categories, from a file of COCO's object detections (``instances_*.json``).

    An image is a cell and a category is a gene. ``obs["main_supercategory"]`` is the supercategory of most objects.
    An annotation of a crowd counts as one object. Images without objects have no counts: read them with
    ``Fields(...).read(adata, empty="drop")``.

    References
        Lin, T.-Y. et al. (2014) Microsoft COCO: common objects in context. ECCV. arXiv:1405.0312
    """
    content = json.loads(Path(path).read_text("utf-8"))
    if missing := [name for name in ("images", "annotations", "categories") if name not in content]:
        raise ValueError(
            f"it has no {listed(missing)}: a file of COCO's annotations has images, annotations, categories"
        )
    images, categories = (
        {one["id"]: place for place, one in enumerate(content[name])} for name in ("images", "categories")
    )
    rows = [images[one["image_id"]] for one in content["annotations"]]
    columns = [categories[one["category_id"]] for one in content["annotations"]]
    shape = (len(images), len(categories))
    counts = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)  # sums over objects
    names = [Path(one.get("file_name", str(one["id"]))).stem for one in content["images"]]
    var = pd.DataFrame(
        {"supercategory": [one.get("supercategory", "") for one in content["categories"]]},
        index=[one["name"] for one in content["categories"]],
    )
    by_kind = pd.get_dummies(var["supercategory"])
    totals = counts @ by_kind.to_numpy(np.float32)
    main = np.where(totals.any(1), by_kind.columns.to_numpy()[totals.argmax(1)], "none")
    return AnnData(counts, obs=pd.DataFrame({"main_supercategory": pd.Categorical(main)}, index=names), var=var)


def _annotated(adata: AnnData, file: Path) -> AnnData:
    """The same cells with the columns of a table in obs."""
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    table = pd.read_csv(file, sep=_separator(file)).convert_dtypes(convert_integer=False, convert_floating=False)
    matches = {name: int(table[name].astype(str).isin(adata.obs_names).sum()) for name in table}
    key = max(matches, key=matches.__getitem__, default=None)
    if key is None or not matches[key]:
        raise ValueError(
            f"{file}: none of its columns ({listed(table.columns)}) holds the names of the cells, which are "
            f"{listed(adata.obs_names, 3)}"
        )
    table = table.set_index(table[key].astype(str)).drop(columns=key)
    if not table.index.is_unique:
        raise ValueError(f"{file}: {key!r} names {listed(table.index[table.index.duplicated()].unique(), 3)} twice")
    if clash := [name for name in table if name in adata.obs]:
        raise ValueError(f"{file}: obs has {listed(clash)} already: rename, or leave out, these columns of the table")
    lacking = adata.n_obs - int(adata.obs_names.isin(table.index).sum())
    if lacking:
        remedy = either("adata[adata.obs[...].notna()]", "--unknown allow")
        warnings.warn(
            f"{file} has no row for {lacking:,} of {adata.n_obs:,} cells: {remedy}", UserWarning, stacklevel=3
        )
    for name in table:
        values = table[name].reindex(adata.obs_names)
        adata.obs[name] = values if pd.api.types.is_numeric_dtype(values) else values.astype(object).astype("category")
    return adata
