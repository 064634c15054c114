"""``python -m pyroscvi`` is ``pyroscvi``; so it can be started by ``torchrun -m pyroscvi``."""

import sys

from pyroscvi.cli import main

if __name__ == "__main__":
    sys.exit(main())
