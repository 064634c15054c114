"""Evidence with counts scored by the kernel in C++.

    log_evidence(fit, held_out, compile=True)

Nearly all the time of an evidence goes into the last layer of the decoder, a matrix product, and into the counts after
it. The kernel passes over the counts once. Compiling the page around it as well was measured: the gain is not worth
waiting for a compiler at every new shape.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pyroscvi.distributions import native
from pyroscvi.evidence.joint import Joint

__all__ = ["compiled", "why_not"]

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}  # relative, of a log-density: a float32 has seven digits


@contextmanager
def compiled(joint: Joint) -> Iterator[None]:
    """Score counts with the kernel in C++ inside, if it can be built and agrees with the usual one on these cells.

    Where it does not, a warning of one line says why, and the usual kernel is used.
    """
    reason = why_not(joint)
    if reason is not None:
        warnings.warn(f"compile=True: {reason}; going on without it", stacklevel=3)
    with native.used(reason is None):
        yield


@torch.no_grad()
def why_not(joint: Joint) -> str | None:
    """Why the kernel in C++ cannot be used, in a few words; None if it can."""
    device, dtype = joint.cells.device, joint.cells.dtype
    if device.type != "cpu":
        return f"the kernel is for processors, and these cells are on {device}"
    try:
        usual, fast = joint(joint.origin()), _fast(joint)
    except Exception as error:  # a compiler is missing, or fails, in one of many ways
        return f"the kernel cannot be used ({type(error).__name__}: {str(error).strip().splitlines()[0]})"
    difference = ((fast - usual).abs() / usual.abs().clamp(min=1)).max().item()
    if not difference <= TOLERANCE[dtype]:
        return f"the kernel is off by {difference:.1g} of a log-density"
    return None


def _fast(joint: Joint) -> Tensor:
    with native.used():
        return joint(joint.origin())
