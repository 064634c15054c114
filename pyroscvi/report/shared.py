"""Latents that all cells share: samples of them from the guide, and a page whose shared latents have given values.

Given the shared latents theta, cells are independent, and log p(x_n | theta) is a number for every cell, with its own
latents integrated out. Leave-one-out estimates over cells use these numbers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import biject_to

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.reader import pair
from pyroscvi.evidence.shared_latents import RestrictedGuide, sites_of
from pyroscvi.inference.seeds import seeded
from pyroscvi.program import Fitted, Model, Pair


@torch.no_grad()
def shared_draws(fit: Fitted | Pair, cells: Cells, samples: int, seed: int = 0) -> dict[str, Tensor]:
    """Samples from the guide of every shared latent {site: [samples, size]}, in double precision."""
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


def held(fit: Fitted | Pair, shared: Mapping[str, Tensor]) -> Any:
    """Model and guide, with the shared latents held at these values {site: [size]}."""
    model, guide = pair(fit)
    return (Held(model, shared), RestrictedGuide(guide, local=True)) if shared else (model, guide)


class Held(nn.Module):
    """A model whose sites with these names have the given values; handlers outside do not see these sites."""

    def __init__(self, model: Model, values: Mapping[str, Tensor]):
        super().__init__()
        self.model, self.names = model, tuple(values)
        self.estimand = model.estimand
        for name, value in values.items():
            self.register_buffer(f"held_{name}", value)

    def forward(self, cells: Cells) -> Any:
        known = {name: getattr(self, f"held_{name}") for name in self.names}
        with poutine.block(hide=list(known)), poutine.condition(data=known):
            return self.model(cells)
