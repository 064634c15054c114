"""How errors name a remedy: as Python code, or as an option of the command line if the command line is running."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_COMMAND_LINE: ContextVar[bool] = ContextVar("command_line", default=False)
SINGULAR = {"categories": "category", "covariates": "covariate"}  # options that are repeated, one column each


@contextmanager
def command_line() -> Iterator[None]:
    """Within, remedies are options of the command line."""
    token = _COMMAND_LINE.set(True)
    try:
        yield
    finally:
        _COMMAND_LINE.reset(token)


def either(python: str, terminal: str) -> str:
    """The first text in Python, the second on the command line."""
    return terminal if _COMMAND_LINE.get() else python


def option(name: str, value: str) -> str:
    """An option of reading: ``unknown='allow'``, or ``--unknown allow``."""
    return either(f"{name}={value!r}", f"--{name} {value}")


def field(name: str, value: str | None = None) -> str:
    """One of the fields: ``Fields(batch='donor')``, or ``--batch donor``; without a value, ``Fields(batch=...)``."""
    words = f"--{SINGULAR.get(name, name).replace('_', '-')} {'...' if value is None else shlex.quote(value)}"
    return either(f"Fields({name}={'...' if value is None else repr(value)})", words)


def troubleshooting(symptom: str) -> str:
    """A pointer to the page of the documentation that starts from symptoms: ``docs/troubleshooting.md``."""
    return f'The page "Troubleshooting" of the documentation says more: "{symptom}"'
