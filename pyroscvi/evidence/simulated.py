"""Simulated cells: latents from the prior, counts from the model, and the posterior draw that the latents then are.

    u ~ p(u),   z_n ~ p(z_n | u),   x_n ~ p(x_n | z_n, u)

The latents that a simulated cell was made with are a draw of its posterior given the counts: the only posterior draw
that is known without any estimate. Certificates and calibration compare with it.

    made = simulate(reader, seed)
    for target in made.shown_to(reader).targets(seed):
        target.truth          # those draws [n, d]
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor, nn

from pyroscvi.data.cells import Cells
from pyroscvi.data.graph import visited
from pyroscvi.evidence.coordinates import Coordinates
from pyroscvi.evidence.reader import Reader, copied
from pyroscvi.handlers import as_scored
from pyroscvi.inference.seeds import seeded
from pyroscvi.program import Site
from pyroscvi.sites import sampled


class Simulated(NamedTuple):
    """Values of one run of a model that observes nothing, by site.

    cells     conditions and sizes of the simulated cells; their counts are those of the cells they were taken from
    observed  what the model observes of cells: "x" [n, g]
    latents   all the others
    """

    cells: Cells
    observed: Mapping[str, Tensor]
    latents: Mapping[str, Tensor]

    def unconstrained(self, sites: Mapping[str, Site]) -> Tensor:
        """Continuous latents, unconstrained and end to end: of cells [n, size], or those that they share [size]."""
        if not sites:
            return torch.zeros(len(self.cells), 0, dtype=self.cells.dtype, device=self.cells.device)
        return Coordinates(sites, self.cells.dtype).of(self.latents)

    def levels(self, sites: Mapping[str, Site]) -> dict[str, Tensor]:
        """Discrete latents [n]: all that are not among these continuous sites."""
        return {name: value for name, value in self.latents.items() if name not in sites}

    def shown_to(self, reader: Reader) -> Reader:
        """A reader of these cells, whose model observes what was simulated and whose guide reads it.

        Its targets have a truth, unless cells share a latent.
        """
        sites: Mapping[str, Site] = reader.guide.sites
        truth = self.unconstrained(sites) if all(site.local for site in sites.values()) else None
        dtype = reader.cells.dtype  # counts in double precision would make the likelihood double too
        observed = {name: x.to(dtype) if x.is_floating_point() else x for name, x in self.observed.items()}
        model, guide = ReplayedModel(reader.model, observed), ReplayedGuide(reader.guide, observed)
        return reader.of(self.cells.to(dtype=dtype), model, guide, truth)


@torch.no_grad()
def simulate(reader: Reader, seed: int) -> Simulated:
    """A simulated cell for each cell of the reader, under its conditions and its size, in double precision.

    Every site is drawn given those before it, with the density that scores it. A size that is a cell's
    observed total stays the total of the reader's cell: the posterior is then p(z | x, l).
    """
    model, cells = reader.model, reader.cells
    if cells.dtype != torch.float64:
        model, _, cells = copied(*reader.source, cells, torch.float64)
    with seeded(seed, cells.device), as_scored():
        drawn: Any = poutine.trace(poutine.uncondition(model)).get_trace(cells).nodes
        sites = sampled(poutine.trace(model).get_trace(cells).nodes)
    observed = {name: drawn[name]["value"] for name, node in sites.items() if node["is_observed"]}
    if cells.measured is not None and "x" in observed:
        observed["x"] = observed["x"] * cells.measured
    if "proteins" in observed:
        counts = cells.protein_counts(observed["proteins"].shape[-1])
        observed["proteins"] = torch.where(counts.isnan(), counts, observed["proteins"])
    latents = {name: drawn[name]["value"] for name in sites if name not in observed}
    return Simulated(cells, observed, latents)


def spread(cells: Cells, n: int) -> Cells:
    """n cells from all over the data set, several times where there are fewer.

    Cells of a tissue are taken once at most, because a copy would have its original as a neighbour.
    """
    if n < 1:
        raise ValueError(f"take one simulated cell at least, not {n}")
    if len(cells) < n and cells.graph is None:
        return cells.subset(torch.arange(n) % len(cells))
    return cells.subset(torch.linspace(0, len(cells) - 1, min(n, len(cells))).round().long())


class ReplayedModel(nn.Module):
    """A model that observes simulated values, in cells whose conditions and sizes stay as they were: ``simulate``."""

    def __init__(self, model: Any, observed: Mapping[str, Tensor]):
        super().__init__()
        self.model, self.observed = model, observed

    def forward(self, cells: Cells) -> Any:
        values = {name: value[cells.index] for name, value in self.observed.items()}
        return poutine.condition(poutine.uncondition(self.model), data=values)(cells)


class ReplayedGuide(nn.Module):
    """A guide that reads simulated counts; in a tissue, each simulated cell among its real neighbours.

    In the model, neighbours do not depend on a cell's latents: whatever they hold, the posterior is the same.
    """

    def __init__(self, guide: Any, observed: Mapping[str, Tensor]):
        super().__init__()
        self.guide, self.observed, self.sites = guide, observed, guide.sites
        self.encoder = getattr(guide, "encoder", None)

    def posteriors(self, cells: Cells) -> Any:
        changes: dict[str, Any] = {}
        if "x" in self.observed:
            changes["counts"] = self.observed["x"][cells.index]
        if "proteins" in self.observed:
            changes["proteins"] = self.observed["proteins"][cells.index]
        if "label" in self.observed:
            changes["belief"] = self.observed["label"][cells.index]
        if cells.graph is not None and cells.graph.nnz:
            everyone = cells.with_halo
            changes |= {"graph": visited(cells.graph, len(cells)), "before": None}
            changes["halo"] = replace(everyone, counts=everyone.x)
        return self.guide.posteriors(replace(cells, **changes))
