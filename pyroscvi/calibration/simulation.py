"""Cells that a fitted model makes itself, and the latents that it made them of, which are a draw of their posterior."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyroscvi.analysis.generate import blank
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.ancestral import ancestral
from pyroscvi.evidence.certificate import Replayed, Rereading
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.reading import as_cells, doubled, pair

__all__ = ["Simulated", "simulate", "template"]

SIMULATING = 2**32  # seeds from here on: those of certificates come before


class Simulated(NamedTuple):
    """Cells of a model's own making.

    cells     conditions and sizes that they were made under; their counts are not to be looked at
    observed  what the model observes of them, by site: "x" [n, g]
    u         their continuous latents, unconstrained and end to end [n, d]
    levels    their discrete latents, by site: "k" [n]
    """

    cells: Cells
    observed: Mapping[str, Tensor]
    u: Tensor
    levels: Mapping[str, Tensor]

    def shown_to(self, fit: Any) -> tuple[Replayed, Rereading]:
        """Model and guide that see what was made: the model its conditions and sizes as they were, the guide counts."""
        model, guide = pair(fit)
        return Replayed(model, self.observed), Rereading(guide, self.observed)


def simulate(fit: Any, cells: Cells, seed: int = 0) -> Simulated:
    """Latents from the prior and counts from the model, in double precision, under the conditions of these cells.

    A size that is a cell's observed total is the total of these cells, whatever the new counts add up to: the posterior
    is then p(z | x, l). Raises ValueError where cells share a latent.
    """
    model, guide, cells = doubled(*pair(fit), cells)
    sites = Joint(model, guide.sites, cells).sites
    made = ancestral(model, cells, SIMULATING + seed)
    levels = {name: value for name, value in made.latents.items() if name not in sites}
    return Simulated(cells, made.observed, made.laid(sites), levels)


def template(fit: Any, cells: Any, n: int, seed: int = 0) -> Cells:
    """n cells whose conditions and sizes simulated cells are to have.

    From all over the cells that are given, several times where there are fewer; for a guide that reads neighbours a
    tissue is not folded upon itself to make more of it. Without any, conditions are as frequent as in training, and
    sizes as they were there.
    """
    if n < 1:
        raise ValueError(f"a calibration takes one simulated cell at least, not {n}")
    if cells is None:
        if not hasattr(fit, "record"):
            raise TypeError("calibrate: a pair (model, guide) does not know its conditions; give cells that have them")
        return fit.read(blank(fit, n, {}, None, seed))
    cells = as_cells(fit, cells)
    if not len(cells):
        raise ValueError("calibrate: there are no cells to take conditions and sizes from")
    if not getattr(getattr(pair(fit)[1], "encoder", None), "hops", 0):
        cells = replace(cells, graph=None, halo=None)
    if len(cells) < n and cells.graph is None:
        return cells.subset(torch.arange(n) % len(cells))
    return cells.subset(torch.linspace(0, len(cells) - 1, min(n, len(cells))).round().long())
