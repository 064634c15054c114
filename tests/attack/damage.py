"""Damaged files: a cell file or a run folder of which bytes were changed is read as it was, or refused in words."""

import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from anndata import AnnData

import pyroscvi as ps
from pyroscvi import Fields
from pyroscvi.cli import main
from pyroscvi.cli.runs import read_run

from .runner import Outcome, isolated, refusal, same

__all__ = ["altered_runs", "damaged", "damaged_bytes", "damaged_structure"]

FIELDS = Fields(batch="batch", label="cell_type", size_factor="size")


def _replaced(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    """A damage that replaces a data set of the file with a changed copy; its attributes are kept."""

    def damage(file: h5py.File) -> None:
        attributes, values = dict(file[name].attrs), change(file[name][:])
        del file[name]
        file[name] = values
        for key, value in attributes.items():
            file[name].attrs[key] = value

    return damage


def _set(place: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float64) if isinstance(value, float) else values
        values[place] = value
        return values

    return change


def _attribute(name: str, key: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file[name].attrs.__setitem__(key, value)


STRUCTURE: dict[str, Callable[[h5py.File], None]] = {
    **{f"index {value}": _replaced("X/indices", _set(3, value)) for value in (-1, 12, 1000, 2**31 - 2)},
    **{f"indptr[{k}] = {v}": _replaced("X/indptr", _set(k, v)) for k, v in ((0, 2), (5, -1), (5, 10**6), (-1, 10**6))},
    **{f"a count of {value}": _replaced("X/data", _set(3, value)) for value in (np.nan, np.inf, -1.0, 0.5)},
    **{
        f"short {name}": _replaced(name, lambda v: v[:-3]) for name in ("X/indices", "X/data", "X/indptr", "obs/_index")
    },
    "a code beyond the levels": _replaced("obs/batch/codes", _set(3, 9)),
    **{f"no {name}": lambda file, name=name: file.pop(name) for name in ("X", "X/indptr", "X/data", "obs/_index")},
    "another shape": _attribute("X", "shape", np.array([40, 9])),
    "an unknown encoding": _attribute("X", "encoding-type", "nonsense"),
}


def damaged_structure(seed: int) -> Outcome:
    """A file that is valid HDF5 and no valid AnnData, opened and read: it must be refused."""
    what = list(STRUCTURE)[seed // 2 % len(STRUCTURE)]
    with tempfile.TemporaryDirectory() as folder:
        path = _cell_file(Path(folder), seed)
        with h5py.File(path, "r+") as file:
            STRUCTURE[what](file)
        return isolated(lambda: _looked_at(path, seed, what, must_fail=True), what)


def damaged_bytes(seed: int) -> Outcome:
    """A file of which bytes were changed or are missing."""
    with tempfile.TemporaryDirectory() as folder:
        path = _cell_file(Path(folder), seed)
        what = damaged(path, np.random.default_rng(seed))
        walked = isolated(lambda: _walked(path), what, seconds=10)
        if walked.result in ("crash", "took too long"):
            return Outcome("impossible", what, "HDF5 itself crashes or never ends")
        return isolated(lambda: _looked_at(path, seed, what, must_fail=False), what)


def _walked(path: Path) -> Outcome:
    """Reads every attribute of a file with h5py alone."""
    with h5py.File(path) as file:
        file.visititems(lambda name, item: dict(item.attrs).clear())
    return Outcome("right")


def _cells(seed: int) -> AnnData:
    return ps.data.simulated(40, 12, seed=seed)


def _cell_file(folder: Path, seed: int) -> Path:
    path = folder / "cells.h5ad"
    _cells(seed).write_h5ad(path, compression="gzip" if seed % 4 > 1 else None)
    return path


def _looked_at(path: Path, seed: int, what: str, must_fail: bool) -> Outcome:
    """By ``open`` at even seeds, by anndata and ``read`` at odd ones.

    HDF5 has no checksums: a changed digit of a count is another count. What is read must still be counts.
    """
    from anndata import read_h5ad

    data: Any = path
    if seed % 2:
        try:
            data = read_h5ad(path)
        except Exception as error:
            return Outcome("impossible", what, f"anndata refuses: {error}"[:200])
    cells = FIELDS.read(data) if seed % 2 else FIELDS.open(data)
    x = cells.subset(slice(None)).x.numpy()
    counts = np.isfinite(x).all() and (x >= 0).all() and (x == np.floor(x)).all()
    sums = np.allclose(cells.library.numpy().ravel(), x.sum(1))
    if must_fail or not counts or not sums:
        return Outcome("accepted wrongly", what, f"counts: {counts}, totals: {sums}")
    return Outcome("right", what)


def damaged(path: Path, rng: np.random.Generator) -> str:
    """Changes bytes of a file, and returns what was done."""
    whole = bytearray(path.read_bytes())
    at = int(rng.integers(len(whole)))
    what = str(rng.choice(["cut", "a bit", "20 bytes", "512 zeros", "appended", "a digit"]))
    if what == "cut":
        whole = whole[:at]
    elif what == "a bit":
        whole[at] ^= 1 << int(rng.integers(8))
    elif what == "20 bytes":
        for place in rng.integers(0, len(whole), 20):
            whole[place] ^= int(rng.integers(1, 256))
    elif what == "512 zeros":
        whole[at : at + 512] = bytes(len(whole[at : at + 512]))
    elif what == "appended":
        whole += b"appended"
    else:
        digits = [i for i, byte in enumerate(whole) if chr(byte).isdigit()]
        place = digits[int(rng.integers(len(digits)))]
        whole[place] = ord("0") + (whole[place] - ord("0") + 1) % 10
    path.write_bytes(whole)
    return f"{path.name}: {what} at {at}"


@cache
def _run_folder() -> tuple[Path, Any]:
    """A finished run of the command line, and what it reads as."""
    folder = Path(tempfile.mkdtemp())
    _cells(0).write_h5ad(folder / "cells.h5ad")
    line = ["fit", folder / "cells.h5ad", "--batch", "batch", "--latent", "2", "--epochs", "1", "--out", folder / "run"]
    if status := main([str(word) for word in line]):
        raise RuntimeError(f"pyroscvi fit ended with {status}")
    return folder / "run", read_run(folder / "run")


def altered_runs(seed: int) -> Outcome:
    """A run folder of which one file was changed: reading it notices, whatever was changed."""
    whole, before = _run_folder()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(shutil.copytree(whole, Path(parent) / "run"))
        names = ("fit.safetensors", "configuration.json", "cells.csv", "checksums.json")
        path = folder / names[seed % len(names)]
        original = path.read_bytes()
        what = damaged(path, np.random.default_rng(seed))
        if path.read_bytes() == original:
            return Outcome("impossible", what)
        try:
            now = read_run(folder)
        except Exception as error:
            return refusal(error, what)
        alike = (
            same(now.fit, before.fit) and now.cells.equals(before.cells) and now.configuration == before.configuration
        )
        return Outcome("right" if alike else "accepted wrongly", what, "read as another run" if not alike else "")
