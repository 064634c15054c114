"""The state of the process that belongs to the user: random generators, and how many threads torch uses."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def process_kept() -> Iterator[None]:
    """Restore the random generators and torch's threads afterwards.

    Code that scanpy compiles at its first use draws from the generators of Python and numpy. numba, which compiles it,
    starts OpenMP with all cores, and torch shares OpenMP: it would use all cores from then on.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
