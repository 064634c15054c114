"""Files that the command line writes: nothing is overwritten unless it was asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroscvi.fitting.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_free", "draw"]


def check_free(*files: Path | None, force: bool) -> None:
    """Raise ValueError unless each of these files does not exist or may be replaced."""
    for file in files:
        if file is not None and file.is_dir():
            raise ValueError(f"{file} is a folder: name a file")
        if file is not None and file.exists() and not force:
            raise ValueError(f"{file} exists already: choose another name, or replace it with --force")


def draw(file: Path, drawn: "Axes | Figure") -> Path:
    """Save a figure, or the figure that axes lie on."""
    figure: Any = getattr(drawn, "figure", drawn)
    return write_whole(file, lambda partial: figure.savefig(partial, bbox_inches="tight"))
