"""The command line: each command of ``pyroscvi --help`` has a file here, and sometimes two share one.

Each command reads its arguments, calls the functions that a Python user would call, and writes their results. Torch and
scanpy take seconds to import, so a command imports what it needs when it runs.
"""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pyroscvi.advice import command_line, troubleshooting
from pyroscvi.cli import (
    abundance,
    analyse,
    annotate,
    calibrate,
    compare,
    de,
    domains,
    embed,
    fit,
    generate,
    perturb,
    proportions,
    proteins,
    query,
    report,
    show,
)
from pyroscvi.cli.app import app
from pyroscvi.cli.output import say

__all__ = [
    "abundance", "analyse", "annotate", "app", "calibrate", "compare", "de", "domains", "embed", "fit", "generate",
    "main", "perturb", "proportions", "proteins", "query", "report", "show"
]  # fmt: skip

USE = [
    "embed", "annotate", "domains", "proportions", "proteins", "de", "abundance", "perturb", "generate", "denoise",
    "decontaminate", "query",
]  # fmt: skip
ORDER = ["list", "show", "copy", "demo", "analyse", "fit", *USE, "report", "compare", "calibrate"]  # of the help
app.registered_commands.sort(key=lambda command: ORDER.index(str(command.name)))
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "Unable to allocate")  # of torch, CUDA and numpy


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; an error is one line on stderr, never a traceback."""
    try:
        asked = sys.argv[1:] if arguments is None else arguments
        with warnings.catch_warnings(), command_line(), _quietly("--quiet" in asked):
            warnings.showwarning = _say  # type: ignore[assignment]
            status = app(args=arguments, prog_name="pyroscvi", standalone_mode=False) or 0
            return _fail("interrupted", status) if status == 130 else status  # the parser has caught Ctrl-C
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has ended: pyroscvi list | head -1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("PYROSCVI_TRACEBACK"):
            raise
        return _fail(_line(error), getattr(error, "exit_code", 1))


@contextmanager
def _quietly(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    from pyroscvi.inference.progress import quietly

    with quietly():
        yield


def _line(error: Exception) -> str:
    if hasattr(error, "format_message"):  # of the command-line parser
        return error.format_message()
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = text.partition("Trace Shapes:")[0]  # Pyro adds them to errors inside of a model
    if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
        return "not enough memory: use a smaller --latent, --decoder or --batch-size, or fewer genes with --hvg. " + (
            troubleshooting("out of memory")
        )
    expected = text and (isinstance(error, (ValueError, KeyError, TypeError, OSError)) or hasattr(error, "exit_code"))
    return text if expected else f"{type(error).__name__}: {text} (set PYROSCVI_TRACEBACK=1 to see where)"


def _fail(message: str, status: int) -> int:
    if message:  # empty if there was no command: the parser has printed its help
        say(f"pyroscvi: {' '.join(message.split())}", sys.stderr)
    return status


def _say(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    say(f"pyroscvi: warning: {' '.join(str(message).split())}", sys.stderr)
