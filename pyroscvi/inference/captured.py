"""The loss and its gradients as one compiled graph, for all minibatches of one size.

``make_fx`` runs the loss once on tensors without values and records every operation of PyTorch, those of the backward
pass included. Pyro's handlers and the Python code of a page run only while the graph is recorded. The likelihood is one
operator in it on a processor (``distributions.native``). Inductor compiles the graph; on a GPU, it writes kernels, and
they are launched together (``replayed``). Or the graph runs as it was recorded (``compile="trace"``), which takes half
of the time of an eager step and costs no compilation. A page need not be written differently.

A graph cannot contain a shape that changes (another minibatch size), or a decision that depends on a value. The halo of
cells in tissue is therefore padded, in eager steps too, and a step is recorded for each of the few sizes that it has.
Random numbers are drawn in the order of the eager step, so that a fit with ``compile=True`` is the same fit up to
rounding.
"""

import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.func import functional_call

from pyroscvi.data.cells import Cells
from pyroscvi.data.rows import by_cell
from pyroscvi.distributions import native
from pyroscvi.inference import noise
from pyroscvi.inference.replayed import Replayed
from pyroscvi.inference.seeds import generator_state, set_generator_state
from pyroscvi.torch_internals import compiled, recorded

# On a processor: counts that a fit reads, where an eager fit takes about two minutes and a compiled one half of it; and
# steps, where recording takes about a second and saves ten. The kernel in C++ takes ten more at its very first use.
COUNTS_TO_COMPILE, STEPS_TO_RECORD = 1e9, 1_000
STEPS_ON_GPU = 5_000  # there an eager fit of so many takes about 70 seconds. Compiling took 13 to 36 (docs/speed.md)

LOSS, GRADIENT = 1e-5, 1e-3  # relative tolerances of the compiled step: float32, summed in another order

GRAPHS: dict[Any, Any] = {}  # the last few steps: fits of one model to one data set with several seeds share one
KEPT = 8


class Captured:
    """A loss [] and its gradients for minibatches like the first one.

    inductor   compile the graph, and do not only record it
    """

    def __init__(self, loss: nn.Module, parameters: Sequence[nn.Parameter], first: Cells, inductor: bool = True):
        if first.before is not None:
            raise ValueError("cells with predecessors have others in every minibatch")
        self.loss, self.like = loss, _without_tensors(first)
        self.names = list(_tensors(first))
        held = dict(loss.named_parameters()) | dict(loss.named_buffers())
        self.where, self.held = list(held), list(held.values())
        self.trained = [next(i for i, t in enumerate(self.held) if t is p) for p in parameters]
        self.step = self._shared(first, inductor)
        self.replayed: Replayed | None = None
        if first.device.type == "cuda":
            self.replayed = Replayed(self.step, *self._arguments(_tensors(first), 0.5))

    @torch.no_grad()
    def __call__(self, cells: Cells, beta: float) -> tuple[Tensor, list[Tensor]]:
        held, inputs = self._arguments(_tensors(cells), beta)
        loss, *gradients = self.step(*held, *inputs) if self.replayed is None else self.replayed(inputs)
        return loss, gradients

    def _arguments(self, cells: Mapping[str, Tensor], beta: float) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters and buffers, and the fields of a minibatch with beta."""
        device = self.like.device
        weight = torch.tensor(beta, dtype=self.like.dtype, device=device)
        return [t.detach() for t in self.held], [*(t.to(device) for t in cells.values()), weight]

    def _step(self, *arguments: Tensor) -> list[Tensor]:
        held, fields, beta = arguments[: len(self.held)], arguments[len(self.held) : -1], arguments[-1]
        cells = _with_tensors(self.like, dict(zip(self.names, fields, strict=True)))
        loss = functional_call(self.loss, dict(zip(self.where, held, strict=True)), (cells, beta))
        return [loss.detach(), *torch.autograd.grad(loss, [held[i] for i in self.trained], materialize_grads=True)]

    def _shared(self, first: Cells, inductor: bool) -> Any:
        """The step of an earlier fit, if it is the same; else a new one, which is kept."""
        read = [getattr(first, name) for name in ("total", "levels", "genes", "protein_names", "real", "hops")]
        arguments = [(t.dtype, t.device, t.shape, t.stride()) for t in (*self.held, *_tensors(first).values())]
        content = _content((self.loss, read, self.where, self.names, arguments, self.trained, inductor), {})
        if content not in GRAPHS:
            if len(GRAPHS) == KEPT:
                del GRAPHS[next(iter(GRAPHS))]
            GRAPHS[content] = self._recorded(first, inductor)
        return GRAPHS[content]

    def _recorded(self, first: Cells, inductor: bool) -> Any:
        held, inputs = self._arguments(_tensors(first), 0.5)
        given = [t.clone() for t in (*held, *inputs)]
        for i in self.trained:
            given[i].requires_grad_()
        if first.device.type == "cpu":
            native.build(first.dtype)
        with native.used():
            graph = recorded(self._step, noise.TABLE, given)
        if not inductor:
            return graph
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of compilers, about their own code
            return compiled(graph, [t.detach() for t in given])


def pays(cells: Cells, epochs: int, steps: int) -> bool | Literal["trace"]:
    """Whether compiling the step of a fit saves more time than it costs, or recording it; ``steps`` are of an epoch."""
    if cells.graph is not None or cells.before is not None or cells.device.type not in ("cpu", "cuda"):
        return False
    if cells.device.type == "cuda":
        return epochs * steps >= STEPS_ON_GPU
    if shutil.which(os.environ.get("CXX", "g++")) is None and shutil.which("clang++") is None:
        return False
    if epochs * prod(cells.counts.shape) >= COUNTS_TO_COMPILE:
        return True
    return "trace" if epochs * steps >= STEPS_TO_RECORD else False


def decline(reason: str) -> None:
    warnings.warn(f"compile: {reason}; training goes on without compiling", stacklevel=3)


def capture(
    loss: nn.Module,
    parameters: Sequence[nn.Parameter],
    first: Cells,
    beta: float,
    asked: bool = True,
    inductor: bool = True,
) -> Captured | None:
    """The captured step, if it gives the loss and gradients of the eager one; else None, and a warning if asked."""
    try:
        captured = Captured(loss, parameters, first, inductor)
        if wrong := _differs(captured, first, beta, parameters):
            raise ArithmeticError(wrong)
    except Exception as error:
        if asked:
            decline(str(error).strip().split("\n")[0] or type(error).__name__)
        return None
    return captured


def _differs(captured: Captured, cells: Cells, beta: float, parameters: Sequence[nn.Parameter]) -> str:
    """How the compiled step differs from the eager one, on these cells and random numbers; "" if it does not."""
    loss, device = captured.loss, cells.device
    before, buffers = generator_state(device), [b.clone() for b in loss.buffers()]
    eager = loss(cells, beta)
    expected = torch.autograd.grad(eager, list(parameters), materialize_grads=True, allow_unused=True)
    set_generator_state(device, before)
    for buffer, was in zip(loss.buffers(), buffers, strict=True):
        buffer.copy_(was)
    value, gradients = captured(cells, beta)
    set_generator_state(device, before)
    for buffer, was in zip(loss.buffers(), buffers, strict=True):
        buffer.copy_(was)
    if not abs(value - eager) <= LOSS * (1 + abs(eager)):
        return f"the compiled loss is {value.item():.8g}, the eager one {eager.item():.8g}"
    norm = torch.stack([torch.linalg.vector_norm(g) for g in expected]).norm()
    for (name, _), compiled_one, eager_one in zip(loss.named_parameters(), gradients, expected, strict=True):
        if not (compiled_one - eager_one).norm() <= GRADIENT * norm:
            return f"the compiled gradient of {name} is not the eager one"
    return ""


# What decides a graph, apart from the values of its arguments

OF_MODULES = vars(nn.Module()).keys() - {"training"}  # attributes that every module has


def _content(value: Any, met: dict[int, int]) -> Any:
    """A key of a module, or of what it holds: equal for two that record the same graph.

    met   numbers of the modules that the key has already: a prior may hold its guide, which holds the prior
    """
    if isinstance(value, nn.Module):
        if id(value) in met:
            return met[id(value)]
        met[id(value)] = len(met)
        own = {name: held for name, held in vars(value).items() if name not in OF_MODULES}
        return type(value), _content(own, met), _content(dict(value.named_children()), met)
    if isinstance(value, Tensor | np.ndarray):
        tensor = torch.as_tensor(value).detach().cpu().contiguous()
        return tensor.dtype, tensor.shape, tensor.numpy().tobytes()
    if isinstance(value, Mapping):
        return tuple((key, _content(held, met)) for key, held in value.items())
    if isinstance(value, tuple | list):
        return type(value), *(_content(held, met) for held in value)
    text = repr(value)
    return object() if " at 0x" in text else (type(value), text)  # a function may do anything: it has a key of its own


# A minibatch as a graph sees it: tensors by name, and the rest


def _tensors(cells: Cells) -> dict[str, Tensor]:
    rows = by_cell(lambda values: values, cells)
    codes = {f"categories.{name}": codes for name, codes in rows.pop("categories").items()}
    tensors = {**rows, **codes, "counts": cells.x, "library": cells.library, "panels": cells.panels}
    if cells.graph is not None:
        tensors |= {"edges": cells.edges, "distances": cells.distances}
    if cells.halo is not None:
        tensors |= {f"halo.{name}": t for name, t in _tensors(cells.halo).items()}
    return {name: t for name, t in tensors.items() if isinstance(t, Tensor)}


def _without_tensors(cells: Cells) -> Cells:
    """The rest. Its graph has no edges: a step that does not read them from the tensors is not the eager one."""
    halo = None if cells.halo is None else _without_tensors(cells.halo)
    graph = None if cells.graph is None else sparse.csr_matrix(cells.graph.shape)
    return replace(cells, counts=torch.empty(0, 0), names=None, index=None, graph=graph, halo=halo)


def _with_tensors(like: Cells, tensors: Mapping[str, Tensor]) -> Cells:
    rest: dict[str, Any] = dict(tensors)
    if like.halo is not None:
        of_halo = {name.removeprefix("halo."): rest.pop(name) for name in tensors if name.startswith("halo.")}
        rest["halo"] = _with_tensors(like.halo, of_halo)
    computed: dict[str, Any] = {name: rest.pop(name) for name in ("library", "edges", "distances") if name in rest}
    categories = {name: rest.pop(f"categories.{name}") for name in like.categories}
    cells = replace(like, categories=categories, **rest)
    vars(cells).update(computed)  # rather than once more
    return cells
