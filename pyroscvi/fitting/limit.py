"""A limit to what a declaration in a file may allocate."""

import math
from typing import Any

from pyroscvi.torch_internals import TorchDispatchMode

__all__ = ["NumbersLimit"]


class NumbersLimit(TorchDispatchMode):
    """Inside, no more numbers are allocated than the tensors of a file can fill, and a million besides.

    A declaration of some bytes may ask for layers of gigabytes: it is refused before the memory is taken.
    """

    def __init__(self, stored: int) -> None:
        super().__init__()
        self.left = 4 * stored + 10**6

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        size = args[0] if args else None
        if isinstance(size, list | tuple) and all(isinstance(n, int) for n in size):  # of a tensor out of nothing
            self.left -= math.prod(size)
            if self.left < 0:
                raise ValueError(f"it declares tensors of other shapes than the file holds, one of them {tuple(size)}")
        return func(*args, **(kwargs or {}))
