"""Cells made ready to be integrated: in double precision, a minibatch at a time, each read by the guide."""

import copy
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import torch
from torch import nn

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.proposals import Draws, GuideDraws, Proposal, StudentT, together
from pyroscvi.evidence.streams import Streams

__all__ = ["Read", "as_cells", "doubled", "pair", "reading"]

CELLS = 128  # cells that are read at once, if their genes leave room
ROOM = 2**22  # numbers in one array of predictors [levels, s, n, g]: 32 MB


class Read(NamedTuple):
    """A minibatch: its joint density, where to draw its latents, the random numbers of its cells."""

    joint: Joint
    draws: Draws
    streams: Streams
    chunk: int  # draws at once that there is room for


def reading(
    fit: Any, cells: Any, seed: int = 0, proposal: Proposal | None = None, batch_size: int | None = None
) -> Iterator[Read]:
    """Minibatches in the order of the cells."""
    cells = as_cells(fit, cells)
    if not len(cells):
        raise ValueError("there are no cells to take the evidence of")
    model, guide, cells = doubled(*pair(fit), cells)
    hops = getattr(getattr(guide, "encoder", None), "hops", 0)
    with torch.no_grad():
        levels = Joint(model, guide.sites, cells.take(torch.arange(1), hops)).levels()
    width = cells.counts.shape[1] * prod(levels.values())
    for minibatch in cells.minibatches(batch_size or max(1, min(CELLS, ROOM // width)), hops=hops):
        joint = Joint(model, guide.sites, minibatch)
        with torch.no_grad():
            q = together(guide, minibatch)
        draws = (proposal or StudentT() if joint.size else GuideDraws())(q, joint)
        yield Read(joint, draws, Streams(seed, minibatch.index), max(1, ROOM // (width * len(minibatch))))


def doubled(model: Any, guide: Any, cells: Cells) -> tuple[Any, Any, Cells]:
    """Copies in float64, with dropout off and batch norms frozen.

    The pair is copied at once, for a prior may be made of the guide's own posteriors. What lies on an accelerator that
    knows no float64 comes back to the processor.
    """
    programs = copy.deepcopy((model, guide))
    modules = [program for program in programs if isinstance(program, nn.Module)]
    device = next((p.device for module in modules for p in module.parameters()), cells.device)
    device = torch.device("cpu") if device.type == "mps" else device
    for module in modules:
        module.to(device, torch.float64).eval().requires_grad_(False)
    return *programs, cells.to(device, torch.float64)


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
