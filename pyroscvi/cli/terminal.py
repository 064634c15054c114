"""The console on which the command line prints its tables."""

from rich.console import Console

__all__ = ["terminal"]


def terminal() -> Console:
    """As wide as the terminal, and wide enough to keep a row on one line where output goes to a file or a pipe."""
    return Console() if Console().is_terminal else Console(width=160)
