"""The catalogue: every file in models/ and guides/ is an entry by existing, and so is every plug-in's entry point."""

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any, Literal

from pyroscvi.program import Guide, Model, Program

__all__ = ["create", "list_guides", "list_models", "page"]

Kind = Literal["models", "guides"]


def list_models() -> list[str]:
    """Names of the models of the zoo, plug-ins included."""
    return _catalogue("models")


def list_guides() -> list[str]:
    """Names of the guides of the zoo, plug-ins included."""
    return _catalogue("guides")


def create(name: str, **slots: Any) -> Model | Guide:
    """Declare an entry of the catalogue by name: ``create("scvi", likelihood=NB())``."""
    return page(name)(**slots)  # type: ignore[return-value]


def page(name: str) -> type[Program]:
    """The class behind a name of the catalogue."""
    kinds: tuple[Kind, ...] = ("models", "guides")
    for kind in kinds:
        for entry in entry_points(group=f"pyroscvi.{kind}"):
            if entry.name == name:
                return entry.load()
        if name in _files(kind):
            module = import_module(f"pyroscvi.{kind}.{name}")
            (public,) = module.__all__
            return getattr(module, public)
    raise KeyError(f"no page {name!r}; models: {', '.join(list_models())}; guides: {', '.join(list_guides())}")


def _files(kind: Kind) -> list[str]:
    package = import_module(f"pyroscvi.{kind}")
    return [module.name for module in iter_modules(package.__path__) if not module.name.startswith("_")]


def _catalogue(kind: Kind) -> list[str]:
    return sorted({*_files(kind), *(entry.name for entry in entry_points(group=f"pyroscvi.{kind}"))})
