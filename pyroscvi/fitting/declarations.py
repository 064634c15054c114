"""Declarations as JSON and back: a class by its name, and its fields. A name is looked up, never imported."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

import numpy as np

from pyroscvi.catalogue import modules
from pyroscvi.part import Part


def declaration(value: Any) -> Any:
    """A JSON value from which ``declared`` makes the same declaration again."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return {"tuple" if isinstance(value, tuple) else "list": [declaration(item) for item in value]}
    if isinstance(value, Part):
        slots = {f.name: declaration(getattr(value, f.name)) for f in fields(value) if f.init}  # type: ignore[arg-type]
        return {"class": _name(type(value)), "fields": slots}
    raise TypeError(f"{value!r} cannot be saved: declarations are made of parts, numbers, texts, tuples and lists")


def declared(value: Any, parts: Iterable[type] = ()) -> Any:
    """The declaration that a JSON value states, made only of classes of pyroscvi, of plug-ins, and of ``parts``."""
    return _declared(value, {_name(part): part for part in parts})


def _declared(value: Any, known: Mapping[str, type]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_declared(item, known) for item in value["tuple"])
    if "list" in value:
        return [_declared(item, known) for item in value["list"]]
    name = value["class"]
    part = known.get(name) or _trusted(name)
    if part is None:
        raise ValueError(f"made with {name}, which pyroscvi does not know: load(path, parts=[{name.split('.')[-1]}])")
    return part(**{field: _declared(item, known) for field, item in value["fields"].items()})


def _trusted(name: str) -> type[Part] | None:
    """The part of this name, of the library or of a plug-in that registered itself; no other module is imported."""
    module, _, word = name.rpartition(".")
    part = getattr(import_module(module), word, None) if module in modules() else None
    return part if isinstance(part, type) and issubclass(part, Part) and _name(part) == name else None


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
