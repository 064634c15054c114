"""Ancestral draws: a run of a model in which nothing is observed, so that every site is drawn given those before it.

    u ~ p(u),   z_n ~ p(z_n | u),   x_n ~ p(x_n | z_n, u)

What made the counts is then a draw of the posterior given them, and the only one that nobody had to look for.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.coordinates import Coordinates
from pyroscvi.handlers import as_scored
from pyroscvi.inference.seeds import seeded
from pyroscvi.program import Site

__all__ = ["Drawn", "ancestral"]


class Drawn(NamedTuple):
    """Values of one run, by site.

    cells     conditions and sizes that they were drawn under
    observed  what the model observes of cells: "x" [n, g]
    latents   all the others
    """

    cells: Cells
    observed: Mapping[str, Tensor]
    latents: Mapping[str, Tensor]

    def laid(self, sites: Mapping[str, Site]) -> Tensor:
        """Continuous latents, unconstrained and end to end: of cells [n, size], or those that they share [size]."""
        if not sites:
            return torch.zeros(len(self.cells), 0, dtype=self.cells.dtype, device=self.cells.device)
        return Coordinates(sites, self.cells.dtype).of(self.latents)


@torch.no_grad()
def ancestral(model: Callable[[Cells], Any], cells: Cells, seed: int) -> Drawn:
    """What the model makes under the conditions and sizes of these cells, with the density that it is scored by."""
    with seeded(seed, cells.device), as_scored():
        made: Any = poutine.trace(poutine.uncondition(model)).get_trace(cells).nodes
        seen: Any = poutine.trace(model).get_trace(cells).nodes
    sites = {name: node for name, node in seen.items() if node["type"] == "sample" and not site_is_subsample(node)}
    observed = {name: made[name]["value"] for name, node in sites.items() if node["is_observed"]}
    latents = {name: made[name]["value"] for name in sites if name not in observed}
    return Drawn(cells, observed, latents)
