"""Options that take several words: ``--likelihood nb zinb poisson`` is ``--likelihood nb --likelihood zinb ...``."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from typer.core import TyperCommand

from pyroscvi.cli.grouped import Choices

__all__ = ["Several", "spread"]


class Several(TyperCommand):
    """A command whose ``Choices`` take every word up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(spread(args, [f"--{slot.name}" for slot in fields(Choices)])))


def spread(args: Sequence[str], greedy: Sequence[str]) -> Iterator[str]:
    """The option once more before every further word that it takes.

    >>> list(spread(["data", "--prior", "normal", "mixture:8", "--seed", "1"], ["--prior"]))
    ['data', '--prior', 'normal', '--prior', 'mixture:8', '--seed', '1']
    """
    option, words = "", 0
    for place, arg in enumerate(args):
        if arg == "--":  # after which nothing is an option
            yield from args[place:]
            return
        if arg.startswith("-"):
            option, words = (arg if arg in greedy else ""), 0
        elif option:
            words += 1
            if words > 1:
                yield option
        yield arg
