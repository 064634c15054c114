"""Sugar: short names for declared parts, for the places where an object cannot be typed.

    >>> from pyroscvi.parts import Condition, Decoder, Likelihood, Prior
    >>> parse(Prior, "mixture:8")
    Mixture()
    >>> parse(Decoder, "mlp:256,128:dropout=0.1")
    MLP(widths=(256, 128), dropout=0.1)
    >>> parse(Likelihood, "zinb:per_batch")
    ZINB(dispersion=PerBatch())
    >>> parse(Condition, "one_hot:batch + embedding:perturbation:16")
    OneHot() + Embedding(field='perturbation', width=16)

A name is the snake case of a class, and the name of its slot may be left off: ``latent`` is ``LatentSize`` where a size is
asked for. What follows a colon are the fields, in their order or as ``field=value``; a field that is a part is written in the
same way, in parentheses if it has fields of its own: ``nb:(random_dispersion:0:0.5)``.
"""

import re
from dataclasses import fields
from difflib import get_close_matches
from functools import reduce
from operator import add
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pyroscvi import parts
from pyroscvi.part import Part

__all__ = ["among", "known", "parse", "snake"]

P = TypeVar("P", bound=Part)
T = TypeVar("T")


def parse(slot: type[P], text: str) -> P:
    """The part that ``text`` names, for a slot of this type; a sum of them where the slot can add.

    Raises ValueError for a name, a field or a value that is not known, naming those that are.
    """
    terms = _split(text, "+")
    if len(terms) > 1 and not hasattr(slot, "__add__"):
        raise ValueError(f"{text!r}: a {_words(slot)} is one part, not a sum")
    return reduce(add, (_term(slot, term) for term in terms))  # type: ignore[type-var]


def known(slot: type[P]) -> dict[str, type[P]]:
    """The parts that fit a slot, by name."""
    found = (getattr(parts, name) for name in parts.__all__)
    return {_short(part, slot): part for part in found if issubclass(part, slot) and part is not slot}


def among(name: str, choices: dict[str, T], what: str) -> T:
    """``choices[name]``, however the name is spelt; or an error that lists the names there are and guesses at the one meant."""
    by_letters = {_letters(choice): choice for choice in choices}
    if _letters(name) in by_letters:
        return choices[by_letters[_letters(name)]]
    near = get_close_matches(_letters(name), by_letters, n=1)
    guess = f"; did you mean {by_letters[near[0]]!r}?" if near else ""
    raise ValueError(f"no {what} {name!r}{guess} (known: {', '.join(sorted(choices)) or 'none'})")


def snake(name: str) -> str:
    """``VampPrior`` to ``vamp_prior``, ``SpatialGNN`` to ``spatial_gnn``, ``NB`` to ``nb``.

    >>> snake("Log1pNormal"), snake("SpatialGNN"), snake("MLP")
    ('log1p_normal', 'spatial_gnn', 'mlp')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def fill(cls: type[P], arguments: list[str]) -> P:
    """``cls`` with these fields, each ``value`` or ``field=value``."""
    kinds = {field.name: get_type_hints(cls)[field.name] for field in fields(cls)}  # type: ignore[arg-type]
    stated: dict[str, Any] = {}
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if not equals or "(" in name:
            if place >= len(kinds):
                raise ValueError(f"{snake(cls.__name__)!r} takes {len(kinds)} fields ({', '.join(kinds)}), not {argument!r} too")
            name, value = list(kinds)[place], argument
        name = among(name.strip(), {field: field for field in kinds}, f"field of {snake(cls.__name__)}")
        stated[name] = _value(kinds[name], value.strip(), f"{snake(cls.__name__)}:{name}")
    return cls(**stated)


def _term(slot: type[P], text: str) -> P:
    text = text.strip()
    if text.startswith("(") and text.endswith(")"):
        return parse(slot, text[1:-1])
    name, *arguments = _split(text, ":")
    names = known(slot)
    whole = {snake(part.__name__): part for part in names.values()}
    if _letters(name) in {_letters(choice) for choice in whole}:
        names = whole
    return fill(among(name.strip(), names, _words(slot)), arguments)


def _value(kind: Any, text: str, where: str) -> Any:
    """``text`` read as a type: a part, a number, yes or no, a list of numbers, or itself."""
    if get_origin(kind) in (Union, UnionType):
        for choice in sorted(get_args(kind), key=lambda choice: get_origin(choice) is not tuple or "," not in text):
            try:
                return _value(choice, text, where)
            except ValueError:
                continue
        raise ValueError(f"{where} cannot be {text!r}")
    if isinstance(kind, type) and issubclass(kind, Part):
        return parse(kind, text)
    try:
        if get_origin(kind) is tuple:
            return tuple(get_args(kind)[0](item) for item in text.split(","))
        if kind is bool:
            return among(text, {"true": True, "yes": True, "false": False, "no": False}, f"value of {where}")
        return kind(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} cannot be {text!r}: it takes {getattr(kind, '__name__', kind)}") from error


def _split(text: str, by: str) -> list[str]:
    """Split at a sign, outside of parentheses."""
    depth, pieces = 0, [""]
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            break
        pieces = [*pieces, ""] if letter == by and depth == 0 else [*pieces[:-1], pieces[-1] + letter]
    if depth:
        raise ValueError(f"{text!r}: parentheses do not match")
    return pieces


def _letters(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _short(part: type[Part], slot: type[Part]) -> str:
    """The snake case of a part, without the name of its slot: ``latent`` for ``LatentSize``, ``per_gene`` for ``PerGene``."""
    return snake(part.__name__).removesuffix(f"_{snake(slot.__name__)}")


def _words(slot: type[Part]) -> str:
    return snake(slot.__name__).replace("_", " ")
