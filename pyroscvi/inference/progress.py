"""The progress bar of a fit, on a terminal or in a notebook; anywhere else, silence."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pyroscvi.inference.run import Run

__all__ = ["watched"]


@contextmanager
def watched(run: Run, wanted: bool = True) -> Iterator[Callable[[], None]]:
    """Call what this gives after every step."""
    console = Console(stderr=True)
    shown = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not (wanted and shown)) as bar:
        task = bar.add_task(type(run.model).__name__, total=1.0, said="")

        def look() -> None:
            bar.update(task, completed=run.progress, said=_said(run))

        yield look
        look()


def _said(run: Run) -> str:
    said = f"epoch {min(run.epoch + 1, run.epochs)}/{run.epochs}"
    if run.history:
        last = run.history[-1]
        said += f"  loss {last['loss']:.2f}"
        if last["elbo_held_out"] == last["elbo_held_out"]:
            said += f"  held-out ELBO {last['elbo_held_out']:.2f}"
    return f"{said}  beta {run.beta:.2f}"
