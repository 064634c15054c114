"""A guide restricted to the latents of single cells, or to those that all cells share."""

from typing import Any

from torch import nn

from pyroscvi.data.cells import Cells
from pyroscvi.program import Guide, Site

__all__ = ["RestrictedGuide", "sites_of"]


class RestrictedGuide(nn.Module):
    """A guide with some of its sites: those with one value for each cell (``local``), or the others.

    Posteriors of shared latents get batch shape [1], as if they were the latents of one cell.
    """

    def __init__(self, guide: Any, *, local: bool):
        super().__init__()
        self.guide, self.encoder = guide, getattr(guide, "encoder", None)
        self.sites, self.local = sites_of(guide, local), local

    def posteriors(self, cells: Cells) -> dict[str, Any]:
        q = self.guide.posteriors(cells)
        return {name: q[name] if self.local else q[name].expand((1,)) for name in self.sites}


def sites_of(guide: Guide, local: bool) -> dict[str, Site]:
    """The sites of a guide that have one value for each cell, or those that cells share."""
    return {name: site for name, site in guide.sites.items() if site.local == local}
