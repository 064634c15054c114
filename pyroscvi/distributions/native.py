"""The kernel as one operator of PyTorch, in C++ (``native.cpp``), for whoever asks for it.

    with native.used():
        log_p = distribution.log_prob(x)      # the same to rounding, several times as fast

It is compiled when it is first needed, by the tool chain with which ``torch.compile`` builds its own kernels, and kept
in the same cache: a wheel carries the source and nothing else. Two operators, log p(x) and the slopes of its weighted
sum, are all that a graph sees of it; between them nothing is kept, since a cell is read faster than it is remembered.
"""

import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Size, Tensor
from torch.autograd.function import once_differentiable

from pyroscvi.distributions import deviance, stirling
from pyroscvi.distributions.parameters import Parameters

__all__ = ["NativeLogProb", "active", "build", "used"]

_USED: ContextVar[bool] = ContextVar("the native kernel is used", default=False)


@contextmanager
def used(yes: bool = True) -> Iterator[None]:
    """Use the native kernel inside, for tensors on a processor."""
    token = _USED.set(yes)
    try:
        yield
    finally:
        _USED.reset(token)


def active(x: Tensor) -> bool:
    return _USED.get() and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


@cache
def build(dtype: torch.dtype) -> ctypes.CDLL:
    """The compiled kernel for one precision; whatever keeps it from being compiled is raised."""
    from torch._inductor.codecache import CppCodeCache

    ratios = {"BINET": stirling.BINET_RATIO, "SLOPE": stirling.SLOPE_RATIO}
    tables = {
        f"{name}_{part}": row
        for name, ratio in ratios.items()
        for part, row in zip(("TOP", "BOTTOM"), ratio, strict=True)
    }
    tables["ATANH"] = deviance.ATANH_TAIL[dtype]
    lines = [f"using T = {'double' if dtype == torch.float64 else 'float'};"]
    lines += [f"constexpr int CLIMB = {stirling.CLIMB[dtype]};"]
    lines += [f"const T {name}[] = {{{', '.join(map(repr, row))}}};" for name, row in tables.items()]
    return CppCodeCache.load("\n".join([*lines, Path(__file__).with_suffix(".cpp").read_text()]), "cpu")


class NativeLogProb(torch.autograd.Function):
    """x and the parameters one by one -> log p(x) [...]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Any) -> Tensor:
        ctx.shapes = [None if t is None else t.shape for t in parameters]
        shape = torch.broadcast_shapes(x.shape, *(s for s in ctx.shapes if s is not None))
        x, *given = _in_rows(shape, x, *Parameters(*parameters).with_theta())
        ctx.save_for_backward(x, *given)
        return log_prob(x, *given)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        found = slopes(*ctx.saved_tensors, weight.contiguous())
        every = zip(found, ctx.shapes, ctx.needs_input_grad[1:], strict=True)
        return None, *(d.sum_to_size(shape) if needed else None for d, shape, needed in every)


def _in_rows(shape: Size, x: Tensor, *parameters: Tensor | None) -> list[Any]:
    """Contiguous tensors that repeat no row which the kernel can find again.

    On the left of the axes of x are those of particles. A parameter has one row for all, one for each row of x, or one
    for each particle too.
    """
    wide = (1,) * (len(shape) - x.dim()) + x.shape
    shared = next((axis for axis, n in enumerate(wide[:-1]) if n != 1), len(wide) - 1)
    if wide[shared:-1] != shape[shared:-1]:  # counts that particles share in part
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
def log_prob(x: Tensor, mean: Tensor, size: Tensor | None, theta: Tensor | None, gate: Tensor | None) -> Tensor:
    """log p(x) [...], of contiguous tensors aligned as ``_in_rows`` has them."""
    log_p = _like_cells(x, mean, size, theta, gate)
    _run("log_prob", x, (mean, size, theta, gate), (log_p,))
    return log_p


@log_prob.register_fake
def _like_cells(x: Tensor, *parameters: Tensor | None) -> Tensor:
    shape = torch.broadcast_shapes(x.shape, *(t.shape for t in parameters if t is not None))
    return x.new_empty(shape[:-1])


@torch.library.custom_op("pyroscvi::slopes", mutates_args=())
def slopes(
    x: Tensor, mean: Tensor, size: Tensor | None, theta: Tensor | None, gate: Tensor | None, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The slopes of sum(weight log p(x)) in the logits, log size, log theta and gate, each of its parameter's shape."""
    cells = weight.numel()

    def like(t: Tensor | None) -> Tensor:
        if t is None:
            return x.new_empty(0)
        apart = 1 < cells == t.numel() // t.shape[-1]  # no row is a sum
        return torch.empty_like(t) if apart else torch.zeros_like(t)

    found = like(mean), like(size), like(theta), like(gate)
    _run("slopes", x, (mean, size, theta, gate), (weight, *found))
    return found


@slopes.register_fake
def _like_parameters(x: Tensor, *parameters: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(0 if t is None else t.shape) for t in parameters[:-1])


def _run(name: str, x: Tensor, parameters: tuple[Tensor | None, ...], rest: tuple[Tensor, ...]) -> None:
    genes = x.shape[-1]
    cells = x.numel() // max(genes, 1)
    everywhere = math.prod(_like_cells(x, *parameters).shape)

    def pointer(t: Tensor | None) -> ctypes.c_void_p:
        return ctypes.c_void_p(t.data_ptr() if t is not None and t.numel() else None)

    mean, _, theta, gate = parameters
    rows = (ctypes.c_int64 * 3)(*(0 if t is None else t.numel() // max(genes, 1) for t in (mean, theta, gate)))
    sizes = (ctypes.c_int64(n) for n in (everywhere // max(cells, 1), cells, genes))
    tensors = (pointer(t) for t in (x, *parameters, *rest))
    getattr(build(x.dtype), name)(*tensors, rows, *sizes, ctypes.c_int(torch.get_num_threads()))
