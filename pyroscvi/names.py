"""Names as people type them on a command line: compared by their letters; errors suggest the nearest one."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

T = TypeVar("T")


def among(name: str, choices: Mapping[str, T], what: str) -> T:
    """The choice of this name, whatever its case, hyphens and underscores.

    Raises ValueError with the names that are known, and the nearest of them if one is near.

    >>> among("One-Hot", {"one_hot": 1, "embedding": 2}, "condition")
    1
    >>> among("embeding", {"one_hot": 1, "embedding": 2}, "condition")
    Traceback (most recent call last):
    ValueError: no condition 'embeding'; did you mean 'embedding'? (known: one_hot, embedding)
    """
    spelt = {letters(choice): choice for choice in choices}
    if letters(name) in spelt:
        return choices[spelt[letters(name)]]
    near = get_close_matches(letters(name), spelt, n=1)
    guess = f"; did you mean {spelt[near[0]]!r}?" if near else ""
    raise ValueError(f"no {what} {name!r}{guess} (known: {', '.join(choices) or 'none'})")


def letters(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def listed(names: Iterable[Any], most: int = 10) -> str:
    """The first few names, and how many more there are."""
    names = [str(name) for name in names]
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def snake(name: str) -> str:
    """The name of a file for the name of a class.

    >>> snake("VampPrior"), snake("Log1pNormal"), snake("SpatialGNN"), snake("NB")
    ('vamp_prior', 'log1p_normal', 'spatial_gnn', 'nb')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def printable(text: object) -> str:
    r"""The text with control characters written out, so that a terminal shows them and does not obey them.

    >>> printable("\x1b[31mred")
    '\\x1b[31mred'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
