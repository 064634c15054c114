"""Evidence with counts scored by the kernel in C++, for whoever asks for it.

    log_evidence(fit, held_out, compile=True)

Of the time of an evidence nearly all goes into the last layer of the decoder, which is a matrix product, and the pass
over the counts after it. The kernel makes that pass one; what it leaves to gain by compiling the page around it as well
was measured, and is not worth the wait for a compiler at every new shape.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.distributions import native
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.reading import copies, pair

__all__ = ["compiled", "trouble"]

FEW = 8  # cells on which both ways are compared
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-5}  # of a log-density: a float32 has seven digits


@contextmanager
def compiled(fit: Any, cells: Cells, dtype: torch.dtype = torch.float64) -> Iterator[None]:
    """Score counts by the kernel in C++ inside, if it can be built and says of a few cells what the other one does.

    A warning of one line says why not, and nothing else is different then.
    """
    found = trouble(fit, cells, dtype)
    if found is not None:
        warnings.warn(f"compile=True: {found}; going on without it", stacklevel=3)
    with native.used(found is None):
        yield


@torch.no_grad()
def trouble(fit: Any, cells: Cells, dtype: torch.dtype) -> str | None:
    """What keeps the kernel in C++ from being used, in a few words; None if nothing does."""
    model, guide, cells = copies(*pair(fit), cells.take(slice(0, FEW)), dtype)
    joint = Joint(model, guide.sites, cells)
    if cells.device.type != "cpu":
        return f"the kernel is for processors, and these cells are on {cells.device}"
    try:
        plain, quick = joint(joint.origin()), _quickly(joint)
    except Exception as error:  # a compiler is missing, or fails: there are many ways, and none of them matters here
        return f"the kernel cannot be used ({type(error).__name__}: {str(error).strip().splitlines()[0]})"
    apart = ((quick - plain).abs() / plain.abs().clamp(min=1)).max().item()
    if not apart <= CLOSE[dtype]:
        return f"the kernel is off by {apart:.1g} of a log-density"
    return None


def _quickly(joint: Joint) -> Tensor:
    with native.used():
        return joint(joint.origin())
