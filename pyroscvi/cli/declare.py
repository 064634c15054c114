"""Makes declared models and guides of the texts of the command line."""

import sys
from collections.abc import Iterable
from dataclasses import fields, replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pyroscvi.catalogue import find
from pyroscvi.part import Part
from pyroscvi.parts import Dispersion
from pyroscvi.program import Guide, Model
from pyroscvi.sugar import fill, parse, split

P = TypeVar("P", Model, Guide)


def declare(model: str = "scvi", guide: str = "mean_field", **slots: Any) -> tuple[Model, Guide]:
    """A model and its guide, with these slots; ``encoder`` is a slot of the guide."""
    encoder = slots.pop("encoder", None)
    return _declared(Model, model, **slots), _declared(Guide, guide, encoder=encoder)


def own_files(*texts: str) -> list[Path]:
    """The paths among these texts, each of which names a page of the catalogue or a file of your own."""
    names = (split(text, ":")[0] for text in texts)
    return [Path(name) for name in names if name.endswith(".py")]


def own_parts(files: Iterable[Path]) -> list[type[Part]]:
    """All parts that these files define."""
    modules = {module.__name__: module for module in map(_module, files)}
    values = [value for module in modules.values() for value in vars(module).values()]
    return [part for part in values if isinstance(part, type) and issubclass(part, Part) and part.__module__ in modules]


def _declared(kind: type[P], text: str, **slots: Any) -> P:
    """The page that ``text`` names, ``gmvae:kinds=12`` or ``./mine.py``, with these slots; None keeps the default."""
    name, *arguments = split(text, ":")
    dispersion = slots.pop("dispersion", None)
    stated: list[str] = [f"{slot}={value}" for slot, value in slots.items() if value is not None]
    cls = _public(Path(name)) if name.endswith(".py") else find(name).load()
    if not issubclass(cls, kind):
        raise ValueError(f"{name} is no {kind.__name__.lower()}: `pyroscvi list` prints the models and the guides")
    program = fill(cls, [*arguments, *stated])
    return program if dispersion is None else _dispersed(program, dispersion)


def _dispersed(program: Any, text: str) -> Any:
    likelihood = getattr(program, "likelihood", None)
    if likelihood is None or "dispersion" not in {field.name for field in fields(likelihood)}:
        raise ValueError(f"{likelihood or program} has no dispersion")
    return replace(program, likelihood=replace(likelihood, dispersion=parse(Dispersion, text)))


def _public(file: Path) -> Any:
    """The one class that a file's ``__all__`` names."""
    module = _module(file)
    try:
        (public,) = module.__all__
        return getattr(module, public)
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{file}: __all__ must name one class, the model or guide") from error


def _module(file: Path) -> ModuleType:
    """A file of your own, imported under the name of the file."""
    spec = spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"{file}: there is no such file")
    loaded = sys.modules.get(file.stem)
    if loaded is not None:
        if getattr(loaded, "__file__", None) and Path(loaded.__file__ or "").resolve() == file.resolve():
            return loaded
        raise ValueError(f"{file}: the name {file.stem} is taken by another module: rename the file")
    module = sys.modules[file.stem] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[file.stem]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ValueError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    return module
