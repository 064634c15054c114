"""Reading what the command line is pointed at."""

from pathlib import Path

from anndata import AnnData, read_h5ad

__all__ = ["read_data"]


def read_data(file: Path) -> AnnData:
    """An AnnData from an h5ad file; ValueError in one line where there is none."""
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    try:
        return read_h5ad(file)
    except Exception as error:  # h5py and anndata raise many kinds
        raise ValueError(f"{file} cannot be read as h5ad: {error}") from error
