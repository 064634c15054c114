"""From the words of the command line to a declared model and guide."""

import sys
from dataclasses import fields, replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from pyroscvi.cli.pages import find
from pyroscvi.part import Part
from pyroscvi.parts import Dispersion
from pyroscvi.program import Guide, Model
from pyroscvi.registry import page
from pyroscvi.sugar import fill, parse, split

__all__ = ["declare"]


def declare(kind: type[Part], text: str, **slots: Any) -> Any:
    """The page that ``text`` names, ``gmvae:kinds=12`` or ``./mine.py``, with these slots; None leaves one as it is."""
    name, *arguments = split(text, ":")
    dispersion = slots.pop("dispersion", None)
    stated = [f"{slot}={value}" for slot, value in slots.items() if value is not None]
    program = fill(_from_file(Path(name)) if name.endswith(".py") else page(find(name).name), [*arguments, *stated])
    if not isinstance(program, kind):
        raise ValueError(f"{name} is no {kind.__name__.lower()}, but a {_kind(program).__name__.lower()}")
    return program if dispersion is None else _dispersed(program, dispersion)


def _dispersed(program: Any, text: str) -> Any:
    likelihood = getattr(program, "likelihood", None)
    if likelihood is None or "dispersion" not in {field.name for field in fields(likelihood)}:
        raise ValueError(f"{likelihood or program!r} has no dispersion")
    return replace(program, likelihood=replace(likelihood, dispersion=parse(Dispersion, text)))


def _from_file(file: Path) -> Any:
    """The one class that a file's ``__all__`` names."""
    spec = spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"{file}: no such file")
    module = sys.modules[file.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        (public,) = module.__all__
        return getattr(module, public)
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{file}: __all__ must name one class, the model or guide") from error


def _kind(program: Any) -> type[Part]:
    return Model if isinstance(program, Model) else Guide
