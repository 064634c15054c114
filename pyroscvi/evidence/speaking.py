"""A guide, as far as it speaks of latents that are each cell's own; or of those that all cells share."""

from typing import Any

from torch import nn

from pyroscvi.data.cells import Cells
from pyroscvi.program import Site

__all__ = ["Speaking", "where"]


class Speaking(nn.Module):
    """A guide that speaks of some of its sites: of those that are each cell's own (``local``), or of the others.

    What all cells share is said of one cell.
    """

    def __init__(self, guide: Any, *, local: bool):
        super().__init__()
        self.guide, self.encoder = guide, getattr(guide, "encoder", None)
        self.sites, self.local = where(guide, local), local

    def posteriors(self, cells: Cells) -> dict[str, Any]:
        q = self.guide.posteriors(cells)
        return {name: q[name] if self.local else q[name].expand((1,)) for name in self.sites}


def where(guide: Any, local: bool) -> dict[str, Site]:
    """The sites of a guide that are each cell's own, or those that are not."""
    return {name: site for name, site in guide.sites.items() if site.local == local}
