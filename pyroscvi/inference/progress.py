"""Progress of what takes long: a bar on a terminal or in a notebook, and a line now and then in a log."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from pyroscvi.inference.run import Run
from pyroscvi.names import printable

SECONDS = 30.0  # between two lines of a log
DELAY = 2.0  # seconds of a loop after which its bar appears
BAR_WIDTH = 120  # columns of a terminal that has room for a bar


_open = 0  # loops that are shown, and ``quietly``: a loop inside of them is not shown


@contextmanager
def quietly() -> Iterator[None]:
    """No progress is shown inside."""
    global _open
    _open += 1
    try:
        yield
    finally:
        _open -= 1


@contextmanager
def watched(run: Run, wanted: bool = True) -> Iterator[Callable[[], None]]:
    """Shows how far a fit is. It yields a function to call after every step."""
    with _shown(type(run.model).__name__, 1.0, wanted) as show:
        yield lambda: show(run.progress, _text(run))
        show(run.progress, _text(run))


@contextmanager
def counted(what: str, total: int, wanted: bool = True) -> Iterator[Callable[[int], None]]:
    """Shows how many of ``total`` cells are done. It yields a function to call with the number of cells just done.

    The bar appears after two seconds, and disappears at the end.
    """
    done = 0

    def add(cells: int) -> None:
        nonlocal done
        done += cells
        show(done, f"{done:,} of {total:,} cells")

    with _shown(what, total, wanted, transient=True) as show:
        show(0, f"{total:,} cells")
        yield add


@contextmanager
def _shown(what: str, total: float, wanted: bool, transient: bool = False) -> Iterator[Callable[[float, str], None]]:
    """Yields a function that shows how much is done, and a text."""
    console = Console(stderr=True)
    has_bar = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    began = written = time.monotonic()
    start: float | None = None
    bar: Progress | None = None
    wanted = wanted and not _open

    def show(done: float, text: str) -> None:
        nonlocal written, start, bar
        start = done if start is None else start  # a run that is resumed does not start at 0
        now = time.monotonic()
        if not wanted:
            return
        if has_bar and bar is None and (not transient or now - began >= DELAY):
            narrow, columns = console.width < BAR_WIDTH, _columns(console.width)
            bar = Progress(*columns, console=console, transient=transient, expand=narrow)
            bar.add_task(printable(what), total=total, text="")
            bar.start()
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done, text=text)
        elif not has_bar and now - written >= SECONDS:
            left = f", about {_clock((now - began) * (total - done) / (done - start))} left" if done > start else ""
            print(f"{printable(what)}: {text}, {_clock(now - began)} elapsed{left}", file=sys.stderr, flush=True)
            written = now

    try:
        with quietly():
            yield show
    finally:
        if bar is not None:
            bar.stop()


def _columns(width: int) -> list[ProgressColumn]:
    """Name, bar, text and times. On a narrow terminal there is no bar, and the text is cut before the times are."""
    name = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
    text = TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, ratio=1))
    times = [kind(table_column=Column(no_wrap=True, min_width=7)) for kind in (TimeElapsedColumn, TimeRemainingColumn)]
    return [name, *([BarColumn()] if width >= BAR_WIDTH else []), text, *times]


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _text(run: Run) -> str:
    text = f"epoch {min(run.epoch + 1, run.epochs)}/{run.epochs}"
    if run.history:
        text += f"  loss {run.history[-1]['loss']:.2f}"
        bounds = [row["elbo_held_out"] for row in run.history[-run.every :] if not math.isnan(row["elbo_held_out"])]
        if bounds:
            text += f"  held-out ELBO {bounds[-1]:.2f}"
    return f"{text}  beta {run.beta:.2f}"
