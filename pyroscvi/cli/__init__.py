"""The command line: ``pyroscvi list | show | copy | demo | fit | embed | compare | calibrate``.

A thin layer: each command reads its arguments, calls what a Python user would call, and writes what came of it. Torch
and scanpy take seconds to import, and so every command imports what it needs when it runs.
"""

import os
import sys
import warnings
from collections.abc import Sequence

from pyroscvi.advice import command_line
from pyroscvi.cli.app import app

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; an error is one line on stderr, never a traceback."""
    try:
        with warnings.catch_warnings(), command_line():
            warnings.showwarning = _say  # type: ignore[assignment]
            status = app(args=arguments, prog_name="pyroscvi", standalone_mode=False) or 0
            return _fail("interrupted", status) if status == 130 else status  # the parser has caught Ctrl-C
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # whoever read our output had enough of it: pyroscvi list | head -1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("PYROSCVI_TRACEBACK"):
            raise
        return _fail(_line(error), getattr(error, "exit_code", 1))


def _line(error: Exception) -> str:
    if hasattr(error, "format_message"):  # of the command-line parser
        return error.format_message()
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = text.partition("Trace Shapes:")[0]  # Pyro adds them to errors inside of a model
    expected = text and (isinstance(error, (ValueError, KeyError, TypeError, OSError)) or hasattr(error, "exit_code"))
    return text if expected else f"{type(error).__name__}: {text} (set PYROSCVI_TRACEBACK=1 to see where)"


def _fail(message: str, status: int) -> int:
    if message:  # asked for nothing at all, the parser has printed its help already
        print(f"pyroscvi: {' '.join(message.split())}", file=sys.stderr)
    return status


def _say(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    print(f"pyroscvi: warning: {' '.join(str(message).split())}", file=sys.stderr)
