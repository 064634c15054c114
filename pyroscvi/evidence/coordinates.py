"""Coordinates: continuous latents, unconstrained and concatenated to one vector u, whatever their supports."""

from collections.abc import Iterator, Mapping
from math import log

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyroscvi.program import Site

MAX_LOG = 0.7  # of the largest float's logarithm: beyond any posterior, but a wide proposal may draw there


class Coordinates:
    """Maps between the values of sites and one unconstrained vector u [..., size].

    sites   continuous latents, as ``Guide.sites`` has them
    dtype   the precision of the model that the values are for
    """

    def __init__(self, sites: Mapping[str, Site], dtype: torch.dtype):
        self.sites, self.dtype = sites, dtype
        self.size = sum(site.size for site in sites.values())

    def values(self, u: Tensor) -> dict[str, Tensor]:
        """The value of every site, on its support [..., site.size]."""
        return {name: biject_to(site.support)(part) for name, site, part in self._parts(u)}

    def log_volume(self, u: Tensor) -> Tensor:
        """log |dz / du| [...]."""
        total = u.new_zeros(u.shape[:-1])
        for _, site, part in self._parts(u):
            transform = biject_to(site.support)
            total = total + transform.log_abs_det_jacobian(part, transform(part))
        return total

    def of(self, values: Mapping[str, Tensor]) -> Tensor:
        """u [..., size] of values, one batch shape for all sites; the inverse of ``values``."""
        return torch.cat([biject_to(site.support).inv(values[name]) for name, site in self.sites.items()], -1)

    def _parts(self, u: Tensor) -> Iterator[tuple[str, Site, Tensor]]:
        parts = u.split([site.size for site in self.sites.values()], -1) if self.sites else ()
        limit = MAX_LOG * log(torch.finfo(self.dtype).max)
        for (name, site), part in zip(self.sites.items(), parts, strict=True):
            # exp(u) must stay in the range of a float
            yield name, site, part if is_real(site) else part.clamp(-limit, limit)


def is_real(site: Site) -> bool:
    """Whether the values of a site are real numbers, without a limit."""
    return isinstance(getattr(site.support, "base_constraint", site.support), type(constraints.real))
