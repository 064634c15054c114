"""Latents that all cells share: samples and centres of their posterior, and a page that holds them at given values.

Given the shared latents theta, cells are independent, and log p(x_n | theta) is a number for every cell, with its own
latents integrated out. ``log_evidence`` holds theta at the centre of its posterior, as it plugs in parameters.
Leave-one-out estimates over cells hold it at samples. ``data_evidence`` integrates over it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import biject_to

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.shared_latents import RestrictedGuide, sites_of
from pyroscvi.inference.seeds import seeded
from pyroscvi.part import hops_of
from pyroscvi.program import Guide, Model, Pair, centre


@torch.no_grad()
def shared_centres(guide: Guide, cells: Cells) -> dict[str, Tensor]:
    """The centre of the posterior of every shared latent {site: [size]}: its mean, before the site's transform."""
    shared = sites_of(guide, local=False)
    q = guide.posteriors(_first(guide, cells)) if shared else {}
    return {name: biject_to(site.support)(centre(q[name])) for name, site in shared.items()}


@torch.no_grad()
def shared_draws(guide: Guide, cells: Cells, samples: int, seed: int = 0) -> dict[str, Tensor]:
    """Samples from the guide of every shared latent {site: [samples, size]}, in double precision."""
    shared = sites_of(guide, local=False)
    if not shared:
        return {}
    with seeded(seed, cells.device):
        q = guide.posteriors(_first(guide, cells))
        return {
            name: biject_to(site.support)(q[name].sample(torch.Size([samples])).double())
            for name, site in shared.items()
        }


def _first(guide: Guide, cells: Cells) -> Cells:
    """One cell, and the neighbours that the guide reads."""
    return cells.take(torch.arange(1), hops_of(guide))


def held(pair: Pair, shared: Mapping[str, Tensor]) -> Any:
    """Model and guide, with the shared latents held at these values {site: [size]}."""
    model, guide = pair
    return (Held(model, shared), RestrictedGuide(guide, local=True)) if shared else (model, guide)


class Held(nn.Module):
    """A model whose sites with these names have the given values; handlers outside do not see these sites."""

    def __init__(self, model: Model, values: Mapping[str, Tensor]):
        super().__init__()
        self.model, self.names = model, tuple(values)
        self.estimand = getattr(model, "estimand", "p(x)")
        for name, value in values.items():
            self.register_buffer(f"held_{name}", value)

    @property
    def values(self) -> dict[str, Tensor]:
        return {name: getattr(self, f"held_{name}") for name in self.names}

    def forward(self, cells: Cells) -> Any:
        with poutine.block(hide=list(self.names)), poutine.condition(data=self.values):
            return self.model(cells)
