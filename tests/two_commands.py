"""What every process of ``test_distributed`` does with the command line: one command, and then the same again."""

import runpy
import sys


def status() -> int:
    """The exit status of ``python -m pyroscvi`` with the arguments of this process."""
    try:
        runpy.run_module("pyroscvi", run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


if __name__ == "__main__":
    first, again = status(), status()
    sys.exit(0 if (first, again) == (0, 1) else f"the commands returned {first} and {again}")
