"""Where the command line prints. Names that users chose are shown as they are, control characters written out."""

from typing import TextIO

from rich.console import Console

from pyroscvi.names import printable

__all__ = ["say", "terminal"]


def terminal() -> Console:
    """As wide as the terminal, and wide enough to keep a row on one line if output goes to a file or a pipe."""
    return Console() if Console().is_terminal else Console(width=160)


def say(text: object, file: TextIO | None = None) -> None:
    """Print the lines of a text, with control characters written out: file names and cell types may contain some."""
    print("\n".join(map(printable, str(text).split("\n"))), file=file)
