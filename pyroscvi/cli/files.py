"""Files that the command line writes: nothing is overwritten unasked, and nothing is left half written."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "free", "whole", "write_json"]


def free(file: Path, force: bool = False) -> Path:
    """The file, if it is not there yet or may be replaced."""
    if file.is_dir():
        raise ValueError(f"{file} is a folder: name a file")
    if file.exists() and not force:
        raise ValueError(f"{file} exists already: choose another name, or replace it with --force")
    return file


def whole(file: Path, write: Callable[[Path], Any]) -> Path:
    """Write beside the file and rename: whoever finds the file finds all of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.stem}.partial{file.suffix}")
    try:
        write(beside)
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
    return file


def draw(file: Path, drawn: "Axes | Figure") -> Path:
    """Save a figure, or the figure that axes lie on."""
    figure: Any = getattr(drawn, "figure", drawn)
    return whole(file, figure.savefig)


def write_json(file: Path, content: Any) -> Path:
    return whole(file, lambda beside: beside.write_text(json.dumps(content, indent=2) + "\n", "utf-8"))
