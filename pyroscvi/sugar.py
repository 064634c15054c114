"""Short names for declared parts, for the command line and other places that take only text.

    >>> from pyroscvi.parts import Condition, Decoder, Likelihood, Prior
    >>> parse(Prior, "mixture:12")
    Mixture(components=12)
    >>> parse(Decoder, "mlp:256,128:dropout=0.1")
    MLP(widths=(256, 128), dropout=0.1)
    >>> parse(Likelihood, "zinb:per_batch")
    ZINB(dispersion=PerBatch())
    >>> parse(Condition, "one_hot:batch + embedding:perturbation:16")
    OneHot() + Embedding(field='perturbation', width=16)

A name is the snake case of a class. The name of its slot may be left out: for a size, ``latent`` is ``LatentSize``.
Fields follow after colons, in their order or as ``field=value``. A field that is a part is written in the same way, in
parentheses if it has fields of its own: ``nb:(random:0:0.5)``.
"""

from dataclasses import fields
from functools import reduce
from operator import add
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import pyroscvi.parts  # noqa: F401  # defines all parts, so that ``kinds`` finds them
from pyroscvi.evidence import Adaptive, Annealed, Estimator, Importance, Ladder, Proposal, Refined
from pyroscvi.evidence.held_out_evidence import HeldOutEvidence
from pyroscvi.inference.schedules import Patience
from pyroscvi.names import among, letters, snake
from pyroscvi.part import Part, kinds
from pyroscvi.parts.conditions import Together

P = TypeVar("P", bound=Part)
ESTIMATORS: dict[str, Estimator] = {
    "auto": Ladder(),
    "importance": Importance(),
    "adaptive": Importance(Adaptive()),
    "refined": Importance(Refined()),
    "annealed": Annealed(),
}
ALSO = {"normal": "standard_normal"}  # other common names of a part, used if the slot has that part


def parse(slot: type[P], text: str) -> P:
    """The part that ``text`` names for a slot of this type, or a sum of parts if parts of this slot can be added.

    Raises ValueError for an unknown name, field or value, and lists the known ones.
    """
    terms = split(text, "+")
    if len(terms) > 1 and not hasattr(slot, "__add__"):
        raise ValueError(f"{text!r}: a {_words(slot)} is one part, not a sum")
    return reduce(add, (_term(slot, term) for term in terms))  # type: ignore[type-var]


def estimator(name: str | None = None, proposal: str | None = None) -> Estimator:
    """The estimator of the evidence with this name, or importance sampling with the proposal of this name.

    >>> estimator("refined")
    Importance(proposal=Refined())
    >>> estimator(proposal="adaptive:rounds=3")
    Importance(proposal=Adaptive(rounds=3))
    """
    if proposal is None:
        return among(name or "auto", ESTIMATORS, "estimator of an evidence")
    if name not in (None, "importance"):
        raise ValueError(f"a proposal is for importance sampling alone: name a proposal or {name!r}, not both")
    return Importance(parse(Proposal, proposal))


def known(slot: type[P]) -> dict[str, type[P]]:
    """All imported parts for a slot, by name, including those in a user's own file."""
    written = kinds(slot) - {Together}  # a sum is written with +
    return {_short(part, slot): part for part in sorted(written, key=lambda part: part.__name__)}


def fill(cls: type[P], arguments: list[str]) -> P:
    """An instance of ``cls``. Each argument is ``value`` (in the order of the fields) or ``field=value``."""
    kinds = {field.name: get_type_hints(cls)[field.name] for field in fields(cls)}  # type: ignore[arg-type]
    name = snake(cls.__name__)
    values: dict[str, Any] = {}
    for place, argument in enumerate(arguments):
        field, *rest = split(argument, "=")
        if rest:
            field, value = among(field, {kind: kind for kind in kinds}, f"field of {name}"), "=".join(rest)
        elif place < len(kinds):
            field, value = list(kinds)[place], argument
        else:
            raise ValueError(f"{argument!r} is one too many: {name} takes {', '.join(kinds) or 'no fields'}")
        values[field] = _value(kinds[field], value.strip(), f"{field} of {name}")
    return cls(**values)


def split(text: str, by: str) -> list[str]:
    """The pieces of ``text`` between the signs ``by``, except those inside parentheses."""
    depth, pieces = 0, [""]
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            break
        if letter == by and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    if depth:
        raise ValueError(f"{text!r}: parentheses do not match")
    return [piece.strip() for piece in pieces]


def stopping(name: str) -> Patience | bool:
    """When to stop: at the ``end`` of the run, or when the held-out ``elbo`` or ``evidence`` no longer improves."""
    kinds: dict[str, Patience | bool] = {
        "end": False,
        "elbo": Patience(),
        "evidence": Patience(watch=HeldOutEvidence(), every=5),
    }
    return kinds[name]


def _term(slot: type[P], text: str) -> P:
    if text.startswith("(") and text.endswith(")"):
        return parse(slot, text[1:-1])
    name, *arguments = split(text, ":")
    names = known(slot)
    in_full = {letters(part.__name__): part for part in names.values()}
    name = ALSO[name] if ALSO.get(name) in names else name
    return fill(in_full.get(letters(name)) or among(name, names, _words(slot)), arguments)


def _value(kind: Any, text: str, where: str) -> Any:
    """``text`` converted to the type ``kind``: a part, a number, a tuple of numbers, a bool or a string."""
    if isinstance(kind, type) and issubclass(kind, Part):
        return parse(kind, text)
    if kind is bool:
        return among(text, {"yes": True, "no": False, "true": True, "false": False}, f"value for {where}:")
    for choice in get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,):
        try:
            if get_origin(choice) is tuple:
                return tuple(get_args(choice)[0](item) for item in text.split(","))
            return choice(text)
        except (TypeError, ValueError):
            continue
    raise ValueError(f"{where} cannot be {text!r}: it takes {getattr(kind, '__name__', kind)}")


def _short(part: type[Part], slot: type[Part]) -> str:
    """The snake case of a part without the name of its slot: ``latent`` for ``LatentSize``."""
    return snake(part.__name__).removesuffix(f"_{snake(slot.__name__)}")


def _words(slot: type[Part]) -> str:
    return snake(slot.__name__).replace("_", " ")
