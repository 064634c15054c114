"""Fits on disk: one safetensors file whose header holds the declaration as JSON. Nothing in it can execute.

A file is written whole (``files.write_whole``), and the earlier file of its name is kept as ``<name>.previous``. So a
whole file remains whenever the writer is killed. A checksum over everything shows whether a file was cut short or
altered; the previous file is read then.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from pyroscvi.data.cells import Cells, Dims
from pyroscvi.data.fields import Fields
from pyroscvi.fitting.declarations import declaration, declared
from pyroscvi.fitting.files import write_whole
from pyroscvi.fitting.result import Fit
from pyroscvi.part import Part
from pyroscvi.torch_internals import TorchDispatchMode

FORMAT = 1
MAX_LEVELS = 10**6


def save(fit: Fit, path: str | Path) -> None:
    """Write a fit; the module says what makes this safe. Raises OSError, which names the file, if the disk is full."""
    tensors = {f"model.{name}": t for name, t in fit.model.state_dict().items()}
    tensors |= {f"guide.{name}": t for name, t in fit.guide.state_dict().items()}
    tensors |= {f"dims.{name}": t for name in ("profile", "log_size") if (t := getattr(fit.dims, name)) is not None}
    about = {
        "model": declaration(fit.model),
        "guide": declaration(fit.guide),
        "fields": None if fit.fields is None else fit.fields.to_dict(),
        "dims": {
            "genes": fit.dims.genes,
            "levels": dict(fit.dims.levels),
            "covariates": fit.dims.covariates,
            "proteins": fit.dims.proteins,
            "embedding": fit.dims.embedding,
            "real": fit.dims.real,
        },
        "history": fit.history.to_dict("list"),
        "record": fit.record,
    }
    write(path, tensors, about)


def load(path: str | Path, parts: Iterable[type[Part]] = ()) -> Fit:
    """The fit in a file, on the processor. Torch's generator stays as it is.

    parts   classes of your own that it was declared with; none is ever imported because a file says so

    Raises FileNotFoundError if there is none, and ValueError, which names the file, if it cannot be made again.
    """
    tensors, about = read(path)
    try:
        with torch.random.fork_rng(devices=[]), _NumbersLimit(sum(t.numel() for t in tensors.values())):
            return _made(tensors, about, parts)
    except Exception as error:  # a declaration that is not one of ours fails in many ways
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} holds no fit that can be made again: {reason}") from error


class _NumbersLimit(TorchDispatchMode):
    """Inside, no more numbers are allocated than the tensors of a file can fill, and a million besides.

    A declaration of some bytes may ask for layers of gigabytes: it is refused before the memory is taken.
    """

    def __init__(self, stored: int) -> None:
        super().__init__()
        self.left = 4 * stored + 10**6

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        size = args[0] if args else None
        if isinstance(size, list | tuple) and all(isinstance(n, int) for n in size):  # of a tensor out of nothing
            self.left -= math.prod(size)
            if self.left < 0:
                raise ValueError(f"it declares tensors of other shapes than the file holds, one of them {tuple(size)}")
        return func(*args, **(kwargs or {}))


def _made(tensors: dict[str, Tensor], about: dict[str, Any], parts: Iterable[type[Part]]) -> Fit:
    model, guide = declared(about["model"], parts), declared(about["guide"], parts)
    names = about["record"].get("genes") and tuple(about["record"]["genes"])
    dims = Dims(
        **about["dims"], names=names, profile=tensors.get("dims.profile"), log_size=tensors.get("dims.log_size")
    )
    if sum(dims.levels.values()) > MAX_LEVELS:
        raise ValueError(f"it declares {sum(dims.levels.values()):,} levels, and no field has as many")
    model = model.sized(dims)
    levels = {name: tuple(map(str, range(count))) for name, count in dims.levels.items()}
    cells = stand_in(dims.genes, levels, dims.covariates, panels=about["record"].get("panels", ()))
    cells = replace(cells, real=dims.real)
    vars(cells)["dims"] = dims  # those of the cells that were fitted, not of these
    guide = guide.sized(model, cells)
    for name, program in (("model", model), ("guide", guide)):
        state = {k.removeprefix(f"{name}."): t for k, t in tensors.items() if k.startswith(f"{name}.")}
        program.to(next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32))
        program.load_state_dict(state)
        program.eval()
    fields = None if about["fields"] is None else Fields.from_dict(about["fields"])
    return Fit(model, guide, fields, dims, pd.DataFrame(about["history"]), {**about["record"]})


def stand_in(
    genes: int, levels: Mapping[str, tuple[str, ...]], covariates: int, n: int = 2, panels: Iterable[list[int]] = ()
) -> Cells:
    """Cells with as little as possible, on which programs are sized whose state replaces what they learn from them.

    panels   numbers of the genes that were measured, for every panel of training
    """
    table = [torch.zeros(genes, dtype=torch.bool).index_fill(0, torch.tensor(row), True) for row in panels]
    codes = {name: torch.zeros(n, dtype=torch.long) for name in levels}
    known = torch.zeros(n, covariates) if covariates else None
    measured: dict[str, Any] = (
        {"panels": torch.stack(table), "panel": torch.zeros(n, dtype=torch.long)} if table else {}
    )
    return Cells(torch.ones(n, genes), codes, known, size_factor=torch.ones(n), levels=levels, **measured)


def write(path: str | Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Tensors and a JSON value into one file, atomically."""
    path = _file(path)
    tensors = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    text = json.dumps({"format": FORMAT, **about})
    content = to_bytes(tensors, {"about": text, "checksum": _checksum(tensors, text)})
    write_whole(path, lambda partial: partial.write_bytes(content), previous=_previous(path))


def exists(path: str | Path) -> bool:
    """Whether ``read`` finds a file, or the previous one."""
    path = _file(path)
    return path.exists() or _previous(path).exists()


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the JSON value that ``write`` wrote; those of the previous file, with a warning, if need be."""
    path = _file(path)
    if not exists(path):
        raise FileNotFoundError(f"there is no fit at {path}")
    try:
        return _read(path)
    except (ValueError, OSError) as error:
        try:
            earlier = _read(_previous(path))
        except (ValueError, OSError):
            raise ValueError(f"{path} cannot be read, and there is no whole file before it: {error}") from error
        warnings.warn(f"{path} cannot be read ({error}); the previous file was read", stacklevel=3)
        return earlier


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")  # a pipe would never end
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except SafetensorError as error:
        raise ValueError(f"it is not a whole file: {error}") from error
    if header.get("checksum") != _checksum(tensors, header.get("about", "")):
        raise ValueError("its checksum does not agree with its contents")
    try:
        about = json.loads(header["about"])
        written = about.pop("format")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("its header is no declaration") from error
    if written != FORMAT:
        raise ValueError("a newer pyroscvi wrote it")
    return tensors, about


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        t = tensors[name]
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        digest.update(np.ascontiguousarray(t.numpy()).tobytes())
    return digest.hexdigest()


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path / "fit.safetensors" if path.is_dir() else path


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")
