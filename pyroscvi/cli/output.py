"""What the command line prints, and the files that it writes: nothing is overwritten unless it was asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console

from pyroscvi.fitting.files import write_whole
from pyroscvi.names import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = (".png", ".pdf", ".svg")


def terminal() -> Console:
    """As wide as the terminal, and wide enough to keep a row on one line if output goes to a file or a pipe."""
    return Console() if Console().is_terminal else Console(width=160)


def say(text: object, file: TextIO | None = None) -> None:
    """Print the lines of a text, with control characters written out: file names and cell types may contain some."""
    print("\n".join(map(printable, str(text).split("\n"))), file=file)


def check_free(*files: Path | None, force: bool) -> None:
    """Raise ValueError unless each of these files does not exist or may be replaced."""
    for file in files:
        if file is not None and file.is_dir():
            raise ValueError(f"{file} is a folder: name a file")
        if file is not None and file.exists() and not force:
            raise ValueError(f"{file} exists already: choose another name, or replace it with --force")


def check_kind(file: Path | None, *kinds: str) -> None:
    """Raise ValueError unless the name of a file to write ends as one of these kinds of files."""
    if file is not None and file.suffix not in kinds:
        written = " or ".join(kinds)
        picture = ": a picture is written by --picture" if file.suffix in PICTURES else ""
        raise ValueError(f"{file}: --out writes {written} files{picture}. Give it a name that ends in {written}")


def draw(file: Path, drawn: "Axes | Figure") -> Path:
    """Save a figure, or the figure that axes lie on."""
    figure: Any = getattr(drawn, "figure", drawn)
    return write_whole(file, lambda partial: figure.savefig(partial, bbox_inches="tight"))
