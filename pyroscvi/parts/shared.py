"""Latents that all cells share, in parts that a page uses inside the plate over cells, and priors that shrink them.

Such a latent is drawn once in a run, before the plate: ``Model`` enters ``drawn()``, so that no page has to.

A horseshoe is a latent with a posterior, and not a penalty on a parameter (MAP): its density is infinite at zero, so
that the most probable value of every number would be exactly zero, whatever the data.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor

from pyroscvi.part import Part

__all__ = ["Shared", "half_cauchy", "horseshoe"]


class Shared(Part):
    """A part with a value that all cells share; ``value`` exists only while its model runs."""

    def draw(self) -> Any:
        """Sample the value, outside the plate over cells."""
        raise NotImplementedError

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Sample the value and keep it for the duration of this block, which must be entered outside the plate."""
        # Not a buffer, and deleted after the run: these tensors hold a gradient graph, which cannot be saved or copied.
        object.__setattr__(self, "value", self.draw())
        try:
            yield
        finally:
            object.__delattr__(self, "value")

    def now(self) -> Any:
        """The value of this run. Raises RuntimeError outside of one."""
        if "value" not in vars(self):
            raise RuntimeError(f"{self!r} has a value only while its model runs: use fit.latent(cells, site=...)")
        return vars(self)["value"]


def half_cauchy(name: str, zeros: Tensor) -> Tensor:
    """Scales ~ HalfCauchy(1) [d]: any size is plausible, and the prior is flat at zero [Gelman, 2006]."""
    return pyro.sample(name, dist.HalfCauchy(zeros + 1).to_event(1))


def horseshoe(name: str, zeros: Tensor, tau: float | Tensor) -> Tensor:
    """Numbers e [d], most of them near zero and few far from it [Carvalho et al., 2010, doi:10.1093/biomet/asq017].

    c ~ HalfCauchy(1)        the site ``name_scale``, one scale for each number
    e ~ Normal(0, tau c)     the site ``name``
    """
    c = half_cauchy(f"{name}_scale", zeros)
    return pyro.sample(name, dist.Normal(zeros, tau * c).to_event(1))
