"""Latents that all cells share, drawn from the guide; and a page that has them held at one draw.

Given what they share, cells are independent again, and log p(x_n | theta) is a number of every cell, its own latents
integrated out: what a leave-one-out over cells is made of.
"""

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import biject_to

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.reader import pair
from pyroscvi.evidence.restricted_guide import RestrictedGuide, sites_of
from pyroscvi.inference.seeds import seeded

__all__ = ["Held", "held", "shared_draws"]


@torch.no_grad()
def shared_draws(fit: Any, cells: Cells, samples: int, seed: int = 0) -> dict[str, Tensor]:
    """Draws of the guide, in double precision, of every latent that cells share {site: [samples, size]}; often none."""
    _, guide = pair(fit)
    shared = sites_of(guide, local=False)
    if not shared:
        return {}
    with seeded(seed, cells.device):
        q = guide.posteriors(cells.take(torch.arange(1), hops=0))
        return {
            name: biject_to(site.support)(q[name].sample(torch.Size([samples])).double())
            for name, site in shared.items()
        }


def held(fit: Any, shared: Mapping[str, Tensor]) -> tuple[Any, Any]:
    """A pair (model, guide) of the latents of single cells, with shared ones held at these values {site: [size]}."""
    model, guide = pair(fit)
    return (Held(model, shared), RestrictedGuide(guide, local=True)) if shared else (model, guide)


class Held(nn.Module):
    """A page with some of its latents known; nobody outside sees their sites."""

    def __init__(self, model: Any, values: Mapping[str, Tensor]):
        super().__init__()
        self.model, self.names = model, tuple(values)
        self.estimand = getattr(model, "estimand", "p(x)")
        for name, value in values.items():
            self.register_buffer(f"held_{name}", value)

    def forward(self, cells: Cells) -> Any:
        known = {name: getattr(self, f"held_{name}") for name in self.names}
        with poutine.block(hide=list(known)), poutine.condition(data=known):
            return self.model(cells)
