"""Progress bars, on a terminal or in a notebook; anywhere else, silence."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pyroscvi.inference.run import Run

__all__ = ["counted", "watched"]


@contextmanager
def watched(run: Run, wanted: bool = True) -> Iterator[Callable[[], None]]:
    """Of a fit: call what this gives after every step."""
    with _bar(wanted) as bar:
        task = bar.add_task(type(run.model).__name__, total=1.0, said="")

        def look() -> None:
            bar.update(task, completed=run.progress, said=_said(run))

        yield look
        look()


@contextmanager
def counted(what: str, total: int, wanted: bool = True) -> Iterator[Callable[[int], None]]:
    """Of so many cells: call what this gives with how many more are done. It leaves no trace on the terminal."""
    with _bar(wanted, transient=True) as bar:
        task = bar.add_task(what, total=total, said=f"{total:,} cells")
        yield lambda done: bar.advance(task, done)


def _bar(wanted: bool, transient: bool = False) -> Progress:
    console = Console(stderr=True)
    shown = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn())
    hidden = not (wanted and shown)
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=transient, disable=hidden)


def _said(run: Run) -> str:
    said = f"epoch {min(run.epoch + 1, run.epochs)}/{run.epochs}"
    if run.history:
        last = run.history[-1]
        said += f"  loss {last['loss']:.2f}"
        if last["elbo_held_out"] == last["elbo_held_out"]:
            said += f"  held-out ELBO {last['elbo_held_out']:.2f}"
    return f"{said}  beta {run.beta:.2f}"
