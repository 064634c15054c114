"""A reader: a fit and cells, copied once, that hands out minibatches which are ready to be integrated.

    reader = Reader(fit, cells, memory="1GB")
    for target in reader.targets(seed=0, particles=1000):
        estimate, method, _ = Ladder()(target, 1000)

Evidence, certificate, usage, scores of genes, resampling and calibration all take a reader, and so can share one.
Latents, their weights and sums over sites are in double precision. So is the model, unless single precision is asked
for, or is found to suffice: a decoder is then twice as fast, and the log-density of one draw wrong by some 1e-4 nats.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import torch
from anndata import AnnData
from torch import Tensor, nn

from pyroscvi.advice import either
from pyroscvi.data.cells import Cells
from pyroscvi.data.halo import reads_later_cells
from pyroscvi.distributions import native
from pyroscvi.evidence.estimator import Target
from pyroscvi.evidence.held import held, shared_centres
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.memory import ON_GPU, Room, in_bytes, usual_memory
from pyroscvi.evidence.proposals import together
from pyroscvi.evidence.shared_latents import sites_of
from pyroscvi.evidence.streams import Streams
from pyroscvi.inference.progress import counted
from pyroscvi.part import Part, hops_of, parts_of
from pyroscvi.program import Fitted, Pair

Compile = bool | Literal["auto"]

MEMORY = "auto"
COMPARED = 8  # cells on which the kernel in C++, and single precision, are checked
SINGLE = 1e-3  # nats: the error of a log-density in single precision, below which it suffices
COUNTS_TO_COMPILE = 2e8  # counts to score: so many take as long as compiling the kernel does
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}  # relative, of a log-density: a float32 has seven digits


class Reader:
    """A model, its guide and cells, in one precision, and how many of the cells are looked at at once.

    fit         a Fit, or a pair (model, guide)
    cells       Cells, or an AnnData, which a Fit reads through its fields
    memory      bytes for intermediate results, as a number or as "2GB", beside the model and the data. "auto": 256 MB,
                or a quarter of the free memory of a GPU
    batch_size  cells at once, in place of what ``memory`` allows
    chunk       draws at once, in place of what ``memory`` allows
    dtype       precision of the model and the cells. None: single if the fit has it and it is precise enough for the
                cells with the largest totals, otherwise double
    compile     score counts with the kernel in C++ inside ``with reader.kernel():``. "auto": if it has been compiled
                before, or if the work is large enough to pay for compiling it
    shared      keep latents that cells share as latents, for ``data_evidence``. Otherwise they are held at the centre
                of their posterior, as parameters are plugged in: cells are then independent

    Copies of model and guide are made here and nowhere else, with dropout off and batch norms frozen. Raises ValueError
    where the fit knows other genes than the cells have, or the levels of a field in another order.
    """

    def __init__(
        self, fit: Fitted | Pair, cells: Cells | AnnData, *, memory: int | str = MEMORY, batch_size: int | None = None,
        chunk: int | None = None, dtype: torch.dtype | None = torch.float64, compile: Compile = "auto",
        shared: bool = False,
    ):  # fmt: skip
        self.source: Pair = pair(fit)
        cells = as_cells(fit, cells)
        if not len(cells):
            raise ValueError("there are no cells to take the evidence of")
        model, guide = self.source
        of_guide = any(part.given and type(part).follow is not Part.follow for part in parts_of(model))
        if of_guide and reads_later_cells(cells, hops_of(guide)):
            remedy = either("score cells.in_order(), or fit with MeanField()", "fit with --guide mean_field")
            raise ValueError(
                f"{guide!r} reads neighbours, and so counts of cells that the prior predicts from these neighbours: "
                f"{remedy}. Cells that were held out of the fit by a split can be scored as they are"
            )
        if hasattr(self.source[1], "without_counts"):
            raise ValueError("a minified fit has no counts, and so no evidence: load the whole fit")
        self.held: dict[str, Tensor] = {}
        if not shared and sites_of(self.source[1], local=False):
            _, guide, precise = copied(None, self.source[1], cells)
            self.held = shared_centres(guide, precise)
            self.source = held(self.source, self.held)
        self.model, self.guide, self.cells = copied(*self.source, cells, dtype or torch.float64)
        self.memory = usual_memory(self.cells.device) if memory == "auto" else in_bytes(memory)
        self.batch_size, self.chunk, self.compile = batch_size, chunk, compile
        self.truth: Tensor | None = None
        if dtype is None and self._single_suffices():
            self.model, self.guide, self.cells = copied(*self.source, cells, torch.float32)

    def of(self, cells: Cells, model: Any = None, guide: Any = None, truth: Tensor | None = None) -> "Reader":
        """A reader of other cells, and of other programs if they are given, at the same settings; nothing is copied.

        truth   draws of the posteriors of these cells [n, d], where they were simulated
        """
        other = copy.copy(self)
        other.cells, other.truth = cells, truth
        other.model, other.guide = model or self.model, guide or self.guide
        vars(other).pop("first", None)
        return other

    @property
    def hops(self) -> int:
        """How far model and guide look from cell to neighbour."""
        return hops_of(self.model, self.guide)

    @cached_property
    def first(self) -> Joint:
        """The joint density of the first cell."""
        return self._joint(1)

    @contextmanager
    def kernel(self, particles: int = 1000) -> Iterator[None]:
        """One thread, and the kernel in C++ if that was asked for, or pays for so many draws of every cell.

        Nearly all the time of an evidence goes into the last layer of the decoder, a matrix product, and into the
        counts after it; the kernel passes over them once. Where it cannot be built, or disagrees with the usual one on
        a few cells, the usual kernel is used; with ``compile=True`` a warning of one line says why. Several threads
        would wait for each other in a thousand small operations; afterwards torch has its threads again.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with native.used(self._kernel_is_used(particles)):
                yield
        finally:
            torch.set_num_threads(threads)

    def _kernel_is_used(self, particles: int) -> bool:
        work = len(self.cells) * particles * self.cells.counts.shape[1]
        if not self.compile or (
            self.compile == "auto" and work < COUNTS_TO_COMPILE and not native.is_built(self.cells.dtype)
        ):
            return False
        problem = _kernel_problem(self._joint(COMPARED))
        if problem is not None and self.compile is True:
            warnings.warn(f"compile=True: {problem}; going on without it", stacklevel=5)
        return problem is None

    @torch.no_grad()
    def _single_suffices(self) -> bool:
        """Whether the fit is in single precision, and log-densities of the largest cells are precise enough in it."""
        modules = [program for program in self.source if isinstance(program, nn.Module)]
        if any(p.dtype != torch.float32 for module in modules for p in module.parameters()):
            return False
        largest = self.cells.take(self.cells.library.flatten().topk(min(COMPARED, len(self.cells))).indices, self.hops)
        u, values = together(self.guide, largest).loc.unsqueeze(0), []
        for model, guide, cells in (
            (self.model, self.guide, largest),
            copied(self.model, self.guide, largest, torch.float32),
        ):
            values.append(Joint(model, guide.sites, cells)(u))
        return bool((values[0] - values[1]).abs().max() < SINGLE)

    def targets(self, seed: int = 0, particles: int = 1) -> Iterator[Target[Joint]]:
        """Minibatches in the order of the cells, with memory for the weights of so many draws of each cell."""
        with torch.no_grad():
            levels = self.first.decoded()
        room = Room(self.memory, self._widest(), levels, particles, self.cells.dtype.itemsize)
        room = room._replace(most=ON_GPU) if self.cells.device.type == "cuda" else room
        with counted("posterior samples", len(self.cells)) as done:
            for minibatch in self.cells.minibatches(self.batch_size or room.cells(), hops=self.hops):
                chunk = self.chunk or room.draws(len(minibatch))
                with torch.no_grad():
                    q = together(self.guide, minibatch)
                q = q._replace(loc=q.loc.double(), scale_tril=q.scale_tril.double())
                rows: Any = minibatch.index
                truth = None if self.truth is None else self.truth[rows].to(q.loc)
                joint = Joint(self.model, self.guide.sites, minibatch, chunk)
                yield Target(joint, q, Streams(seed, rows), chunk, truth)
                done(len(minibatch))

    def _joint(self, cells: int) -> Joint:
        first = self.cells.take(torch.arange(min(cells, len(self.cells))), self.hops)
        return Joint(self.model, self.guide.sites, first)

    def _widest(self) -> int:
        """Genes, or the units of the widest hidden layer if they are more."""
        modules = self.model.modules() if isinstance(self.model, nn.Module) else ()
        layers = [module.out_features for module in modules if isinstance(module, nn.Linear)]
        return max(self.cells.counts.shape[1], *layers, 0)


@torch.no_grad()
def _kernel_problem(joint: Joint) -> str | None:
    """Why the kernel in C++ cannot be used, in a few words; None if it can."""
    device, dtype = joint.cells.device, joint.cells.dtype
    if device.type != "cpu":
        return f"the kernel is for processors, and these cells are on {device}"
    try:
        usual = joint(joint.origin())
        with native.used():
            fast = joint(joint.origin())
    except Exception as error:  # a compiler is missing, or fails, in one of many ways
        return f"the kernel cannot be used ({type(error).__name__}: {str(error).strip().splitlines()[0]})"
    difference = ((fast - usual).abs() / usual.abs().clamp(min=1)).max().item()
    return None if difference <= TOLERANCE[dtype] else f"the kernel is off by {difference:.1g} of a log-density"


def copied(model: Any, guide: Any, cells: Cells, dtype: torch.dtype = torch.float64) -> tuple[Any, Any, Cells]:
    """Copies in this precision, with dropout off and batch norms frozen.

    Model and guide are copied together, because a prior may be made of the guide's posteriors. They come back to the
    processor from an accelerator without float64.
    """
    programs = copy.deepcopy((model, guide))
    modules = [program for program in programs if isinstance(program, nn.Module)]
    device = next((p.device for module in modules for p in module.parameters()), cells.device)
    device = torch.device("cpu") if device.type == "mps" else device
    for module in modules:
        module.to(device, dtype).eval().requires_grad_(False)
    return *programs, cells.to(device, dtype)


def pair(fit: Fitted | Pair) -> Pair:
    """Model and guide of a fit, or the two as they were given."""
    model, guide = fit if isinstance(fit, tuple) else (fit.model, fit.guide)
    if not hasattr(guide, "sites"):
        raise ValueError("the guide has no parameters yet: size it on its model, guide.sized(model, cells)")
    return model, guide


def as_cells(fit: Fitted | Pair, cells: Cells | AnnData) -> Cells:
    """Cells that a fit can take: as they are if they match what it was trained on, or read from an AnnData."""
    if isinstance(cells, Cells):
        if not isinstance(fit, tuple):
            fit.recognise(cells)
        return cells
    if isinstance(fit, tuple):
        raise TypeError(f"give Cells, not {type(cells).__name__}: a pair (model, guide) has no fields to read it with")
    return fit.read(cells)
