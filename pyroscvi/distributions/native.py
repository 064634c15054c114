"""The kernel in C++ (``native.cpp``), as one operator of PyTorch.

    with native.used():
        log_p = distribution.log_prob(x)      # equal up to rounding, several times as fast

The kernel is compiled at its first use, by the tool chain that ``torch.compile`` uses for its own kernels, and is kept
in the same cache. So a wheel contains only the source. A compiled graph contains the kernel as one operator.
"""

import ctypes
import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Size, Tensor

from pyroscvi.distributions import deviance, stirling
from pyroscvi.distributions.parameters import Parameters
from pyroscvi.torch_internals import compiler_cache, shared_library, vector_instructions

_USED: ContextVar[bool] = ContextVar("the native kernel is used", default=False)


@contextmanager
def used(yes: bool = True) -> Iterator[None]:
    """Use the native kernel in this block, for tensors on a processor."""
    token = _USED.set(yes)
    try:
        yield
    finally:
        _USED.reset(token)


def active(x: Tensor) -> bool:
    """Whether the native kernel evaluates counts x here."""
    return _USED.get() and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


@cache
def build(dtype: torch.dtype) -> ctypes.CDLL:
    """The compiled kernel for one precision; raises the error of the compiler if there is one."""
    if not vector_instructions():
        warnings.warn(
            "the C++ kernel will be slow: this processor has no vector instructions that PyTorch knows", stacklevel=2
        )
    library = shared_library(_source(dtype))
    with suppress(OSError):
        _mark(dtype).touch()
    return library


def is_built(dtype: torch.dtype) -> bool:
    """Whether the kernel has been compiled for this precision, here or by an earlier process."""
    return _mark(dtype).exists()


def _mark(dtype: torch.dtype) -> Path:
    """A file in the compiler's cache, which is there once the kernel is."""
    return compiler_cache() / f"pyroscvi-{hashlib.sha256((_source(dtype) + torch.__version__).encode()).hexdigest()}"


def _source(dtype: torch.dtype) -> str:
    tables = {"ATANH": deviance.ATANH_TAIL[dtype]}
    for name, (top, bottom) in {"BINET": stirling.BINET_RATIO, "SLOPE": stirling.SLOPE_RATIO}.items():
        tables |= {f"{name}_TOP": top, f"{name}_BOTTOM": bottom}
    lines = [f"using T = {'double' if dtype == torch.float64 else 'float'};"]
    lines += [f"constexpr int STEPS = {stirling.STEPS[dtype]};"]
    lines += [f"const T {name}[] = {{{', '.join(map(repr, row))}}};" for name, row in tables.items()]
    return "\n".join([*lines, Path(__file__).with_suffix(".cpp").read_text()])


def evaluate(x: Tensor, given: Parameters, slopes_wanted: bool) -> tuple[Tensor, Parameters | None]:
    """log p(x) [...] and its slopes in logits, log size, log theta and gate [..., g]; ``given`` has theta itself."""
    shape = torch.broadcast_shapes(x.shape, *(t.shape for t in given if t is not None))
    log_p, *slopes = log_prob(*_in_rows(shape, x, *given), slopes_wanted)
    if not slopes_wanted:
        return log_p, None
    present = (None if t is None else d for t, d in zip(given, slopes, strict=True))
    return log_p, Parameters(*present)  # type: ignore[arg-type]


def _in_rows(shape: Size, x: Tensor, *parameters: Tensor | None) -> list[Any]:
    """The tensors, contiguous and with no repeated rows where the kernel can use one row several times.

    The axes to the left of those of x are particles. A parameter has one row in all, one row for each row of x, or one
    for each particle and each row of x.
    """
    wide = (1,) * (len(shape) - x.dim()) + x.shape
    shared = next((axis for axis, n in enumerate(wide[:-1]) if n != 1), len(wide) - 1)
    if wide[shared:-1] != shape[shared:-1]:  # only some particles share counts
        shared = 0

    def rows(t: Tensor | None, last: int) -> Tensor | None:
        if t is None:
            return None
        wide = (1,) * (len(shape) - t.dim()) + t.shape
        kept = next(axis for axis in (len(shape) - 1, shared, 0) if all(n == 1 for n in wide[:axis]))
        return t.expand(*(1,) * kept, *shape[kept:-1], last).contiguous()

    mean, size, theta, gate = parameters
    if size is not None:
        size = size.expand(*shape[:-1], 1).contiguous()
    x = x.expand(*(1,) * shared, *shape[shared:]).contiguous()
    return [x, rows(mean, shape[-1]), size, rows(theta, shape[-1]), rows(gate, shape[-1])]


@torch.library.custom_op("pyroscvi::log_prob", mutates_args=())
def log_prob(
    x: Tensor, mean: Tensor, size: Tensor | None, theta: Tensor | None, gate: Tensor | None, slopes: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """log p(x) [...] and its slopes, for tensors from ``_in_rows``; slopes that are absent or not wanted are empty."""
    results = _empty(x, mean, size, theta, gate, slopes)
    genes = x.shape[-1]
    cells = x.numel() // max(genes, 1)
    rows = (ctypes.c_int64 * 3)(*(0 if t is None else t.numel() // max(genes, 1) for t in (mean, theta, gate)))
    sizes = (ctypes.c_int64(n) for n in (results[0].numel() // max(cells, 1), cells, genes))
    tensors = (_pointer(t) for t in (x, mean, size, theta, gate, *results))
    build(x.dtype).log_prob(*tensors, rows, *sizes, ctypes.c_int(torch.get_num_threads()))
    return results


@log_prob.register_fake
def _empty(x: Tensor, *given: Any) -> tuple[Tensor, ...]:
    *parameters, slopes = given
    shape = torch.broadcast_shapes(x.shape, *(t.shape for t in parameters if t is not None))
    one = Size((*shape[:-1], 1))
    shapes = (one if t is parameters[1] else shape for t in parameters)
    slopes = [x.new_empty(s if slopes and t is not None else 0) for s, t in zip(shapes, parameters, strict=True)]
    return x.new_empty(shape[:-1]), *slopes


def _pointer(t: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(t.data_ptr() if t is not None and t.numel() else None)
