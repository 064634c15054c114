"""Coordinates: continuous latents laid end to end, each on the whole real line: no sampler need know them."""

from collections.abc import Iterable, Mapping
from math import log

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyroscvi.program import Site

__all__ = ["Coordinates"]

FARTHEST = 0.7  # of the largest number's logarithm: no posterior is out there, and a wide proposal may draw there


class Coordinates:
    """u [..., size] of sites, and where the sites are.

    sites   continuous latents, as ``Guide.sites`` has them
    dtype   the precision of the model that will be told their values
    """

    def __init__(self, sites: Mapping[str, Site], dtype: torch.dtype):
        self.sites, self.dtype = sites, dtype
        self.size = sum(site.size for site in sites.values())

    def values(self, u: Tensor) -> dict[str, Tensor]:
        """Every site where it lives [..., site.size]."""
        return {name: biject_to(site.support)(part) for name, site, part in self._parts(u)}

    def log_volume(self, u: Tensor) -> Tensor:
        """log |dz / du| [...]."""
        total = u.new_zeros(u.shape[:-1])
        for _, site, part in self._parts(u):
            onto = biject_to(site.support)
            total = total + onto.log_abs_det_jacobian(part, onto(part))
        return total

    def of(self, values: Mapping[str, Tensor]) -> Tensor:
        """u [..., size] of values, one batch shape for all sites; the inverse of ``values``."""
        return torch.cat([biject_to(site.support).inv(values[name]) for name, site in self.sites.items()], -1)

    def _parts(self, u: Tensor) -> Iterable[tuple[str, Site, Tensor]]:
        parts = u.split([site.size for site in self.sites.values()], -1) if self.sites else ()
        sites = zip(self.sites.items(), parts, strict=True)
        farthest = FARTHEST * log(torch.finfo(self.dtype).max)
        return [(name, site, _within(part, site, farthest)) for (name, site), part in sites]


def _within(u: Tensor, site: Site, farthest: float) -> Tensor:
    """Latents of a site that is not the whole real line, kept from where exp(u) leaves the range of a float."""
    real = getattr(site.support, "base_constraint", site.support) is constraints.real
    return u if real else u.clamp(-farthest, farthest)
