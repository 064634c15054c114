"""Cells made ready to be integrated: a minibatch at a time, each read by the guide.

Latents, their weights and every sum over sites are in double precision. So is the model, unless single precision is
asked for: a decoder is then twice as fast, and the log-density of one draw wrong by some 1e-4 nats.
"""

import copy
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import torch
from torch import nn

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.memory import Room, in_bytes
from pyroscvi.evidence.proposals import Draws, GuideDraws, Proposal, StudentT, together
from pyroscvi.evidence.streams import Streams

__all__ = ["MEMORY", "Read", "as_cells", "copies", "doubled", "pair", "reading"]

MEMORY = "256MB"


class Read(NamedTuple):
    """A minibatch: its joint density, where to draw its latents, the random numbers of its cells."""

    joint: Joint
    draws: Draws
    streams: Streams
    chunk: int  # draws at once that there is room for


def reading(
    fit: Any,
    cells: Any,
    seed: int = 0,
    proposal: Proposal | None = None,
    batch_size: int | None = None,
    *,
    memory: int | str = MEMORY,
    particles: int = 1,
    dtype: torch.dtype = torch.float64,
) -> Iterator[Read]:
    """Minibatches in the order of the cells; ``batch_size`` at once, or as many as ``memory`` allows."""
    cells = as_cells(fit, cells)
    if not len(cells):
        raise ValueError("there are no cells to take the evidence of")
    model, guide, cells = copies(*pair(fit), cells, dtype)
    hops = getattr(getattr(guide, "encoder", None), "hops", 0)
    with torch.no_grad():
        levels = Joint(model, guide.sites, cells.take(torch.arange(1), hops)).levels()
    widest = max(cells.counts.shape[1], *(layer.out_features for layer in _linear(model)), 0)
    room = Room(in_bytes(memory), widest, prod(levels.values()), particles, dtype.itemsize)
    for minibatch in cells.minibatches(batch_size or room.cells(), hops=hops):
        chunk = room.draws(len(minibatch))
        joint = Joint(model, guide.sites, minibatch, chunk)
        with torch.no_grad():
            q = together(guide, minibatch)
        q = q._replace(loc=q.loc.double(), scale_tril=q.scale_tril.double())
        draws = (proposal or StudentT() if joint.size else GuideDraws())(q, joint)
        yield Read(joint, draws, Streams(seed, minibatch.index), chunk)


def _linear(model: Any) -> list[nn.Linear]:
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return [module for module in modules if isinstance(module, nn.Linear)]


def doubled(model: Any, guide: Any, cells: Cells) -> tuple[Any, Any, Cells]:
    """Copies in float64: ``copies``."""
    return copies(model, guide, cells, torch.float64)


def copies(model: Any, guide: Any, cells: Cells, dtype: torch.dtype) -> tuple[Any, Any, Cells]:
    """Copies in this precision, with dropout off and batch norms frozen.

    The pair is copied at once, for a prior may be made of the guide's own posteriors. What lies on an accelerator that
    knows no float64 comes back to the processor.
    """
    programs = copy.deepcopy((model, guide))
    modules = [program for program in programs if isinstance(program, nn.Module)]
    device = next((p.device for module in modules for p in module.parameters()), cells.device)
    device = torch.device("cpu") if device.type == "mps" else device
    for module in modules:
        module.to(device, dtype).eval().requires_grad_(False)
    return *programs, cells.to(device, dtype)


def pair(fit: Any) -> tuple[Any, Any]:
    """Model and guide of a Fit, or the two as they were given."""
    model, guide = fit if isinstance(fit, tuple) else (fit.model, fit.guide)
    if not hasattr(guide, "sites"):
        raise ValueError("the guide has no parameters yet: size it on its model, guide.sized(model, cells)")
    return model, guide


def as_cells(fit: Any, cells: Any) -> Cells:
    """Cells as they are; an AnnData is read as the training data was."""
    if isinstance(cells, Cells):
        return cells
    fields = getattr(fit, "fields", None)
    if fields is None:
        raise TypeError(f"give Cells, not {type(cells).__name__}: this fit has no Fields to read anything else through")
    return fields.read(cells)
