"""Plate diagrams, drawn from the program itself.

plates(SCVI().sized(cells.dims), cells).figure.savefig("scvi.svg")
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from pyro import poutine
from pyro.infer.inspect import TrackProvenance
from pyro.ops.provenance import get_provenance
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.data.datasets import simulated
from pyroscvi.data.fields import Fields
from pyroscvi.program import Program
from pyroscvi.report.plots import INK
from pyroscvi.sites import sampled

RADIUS, ACROSS, DOWN = 0.36, 1.4, 1.0  # of a circle, and between the centres of neighbouring circles, in inches
EDGE, MARGIN = RADIUS + 0.25, 0.2  # from a centre to the box, and around the box
OBSERVED_COLOUR = "#d6d6d6"


@dataclass(frozen=True)
class Site:
    """A sample site of a program: the sites that its distribution depends on, and the plates that it is in."""

    name: str
    parents: frozenset[str]
    plates: frozenset[str]
    observed: bool


def sites(model: Program, cells: Cells) -> list[Site]:
    """The sample sites of a program, in order."""
    with torch.no_grad(), TrackProvenance():
        nodes = sampled(poutine.trace(model).get_trace(cells).nodes)
    return [
        Site(
            name,
            frozenset(get_provenance(tuple(_tensors(site["fn"])))),
            frozenset(frame.name for frame in site["cond_indep_stack"]),
            site["is_observed"],
        )
        for name, site in nodes.items()
    ]


def plates(model: Program, cells: Cells) -> Axes:
    """A circle for every sample site, grey if it is observed, and an arrow for every dependency.

    The box contains the sites of the plate over cells; sites that all cells share are above it. Parameters are not
    drawn. The program runs once, on these cells.
    """
    every = sites(model, cells)
    at = _places(every)
    x, y = (list(axis) for axis in zip(*(at[site.name] for site in every if site.plates), strict=True))
    left, low, right, high = min(x) - EDGE, min(y) - 1.2 * EDGE, max(x) + EDGE, max(y) + EDGE
    first, last, top = min(u for u, _ in at.values()), max(u for u, _ in at.values()), max(v for _, v in at.values())
    limits = (first - EDGE - MARGIN, last + EDGE + MARGIN), (low - MARGIN, top + EDGE + MARGIN)
    (first, last), (bottom, top) = limits
    figure = Figure(figsize=(last - first, top - bottom))
    ax = figure.add_axes((0, 0, 1, 1), xlim=limits[0], ylim=limits[1], aspect="equal")
    ax.axis("off")
    box = f"round,pad=0,rounding_size={MARGIN / 2}"
    ax.add_patch(FancyBboxPatch((left, low), right - left, high - low, boxstyle=box, fill=False, edgecolor=INK))
    ax.text(right - 0.08, low + 0.06, "cells", ha="right", va="bottom", fontsize=9, color=INK)
    for site in every:
        ax.add_patch(
            Circle(at[site.name], RADIUS, facecolor=OBSERVED_COLOUR if site.observed else "white", edgecolor=INK)
        )
        ax.text(*at[site.name], site.name, ha="center", va="center", fontsize=11 if len(site.name) < 5 else 8)
        for parent in sorted(site.parents):
            ax.add_patch(_arrow(at[parent], at[site.name]))
    return ax


def example_cells() -> Cells:
    """Few simulated cells that have every field that a page can need."""
    adata = simulated(cells=12, genes=6, sections=1)
    adata.obsm["proteins"] = adata.obsm["spatial"].round()
    return Fields(batch="batch", label="cell_type", spatial="spatial", proteins="proteins").read(adata)


def _places(every: list[Site]) -> dict[str, tuple[float, float]]:
    """The centre of the circle of every site, in inches: a site is to the right of all sites that it depends on."""
    column: dict[str, int] = {}
    for site in every:
        column[site.name] = 1 + max((column[parent] for parent in site.parents), default=-1)
    for site in every:
        children = [column[child.name] for child in every if site.name in child.parents]
        if children and not site.parents:
            column[site.name] = min(children) - 1
    names: dict[tuple[bool, int], list[str]] = defaultdict(list)
    for site in every:
        names[not site.plates, column[site.name]].append(site.name)
    highest = max(len(own) - 1 for (shared, _), own in names.items() if not shared) / 2
    return {
        name: (at * ACROSS, (highest + 1.4 + row if shared else (len(own) - 1) / 2 - row) * DOWN)
        for (shared, at), own in names.items()
        for row, name in enumerate(own)
    }


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> FancyArrowPatch:
    """An arrow between two circles, bent if it passes over another column."""
    bend = "arc3,rad=0.25" if end[0] - start[0] > 1.5 * ACROSS else "arc3"
    ends: dict[str, Any] = {"shrinkA": RADIUS * 72, "shrinkB": RADIUS * 72, "connectionstyle": bend}
    return FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=INK, **ends)


def _tensors(fn: Any) -> Iterator[Tensor]:
    """The parameters of a distribution, and of those that it is made of."""
    for value in vars(fn).values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, Tensor):
                yield part
            elif isinstance(part, torch.distributions.Distribution):
                yield from _tensors(part)
