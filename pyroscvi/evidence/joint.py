"""The joint density of a cell's counts and latents, as a function of its latents; the evidence is its integral.

    p(x_n) = int p(x_n, u_n) du_n,      p(x, u) = sum_k p(x, z(u), k) |dz / du|

The latents u of a cell are its continuous sites, unconstrained and concatenated, so that a sampler need not know them.
Discrete sites k are enumerated and summed exactly.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Categorical

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.coordinates import Coordinates, is_real
from pyroscvi.handlers import GivenOthers
from pyroscvi.part import hops_of
from pyroscvi.program import Site
from pyroscvi.pyro_internals import enumerated_dim
from pyroscvi.sites import is_local, sampled


class Joint:
    """log p(x_n, u_n) of every cell, for latents u [s, n, size].

    model   a Pyro program of cells, everything in it inside one plate "cells"
    sites   its continuous latents, as in ``Guide.sites``
    chunk   how many draws fit into memory at once; None: any number

    The model runs in the precision of the cells; the log-densities of its sites are added up in the precision of u.
    """

    def __init__(
        self, model: Callable[[Cells], Any], sites: Mapping[str, Site], cells: Cells, chunk: int | None = None
    ):
        for name, site in sites.items():
            if not site.local:
                raise ValueError(_shared(name))
        self.model, self.sites, self.cells, self.chunk = model, sites, cells, chunk
        self.coordinates = Coordinates(sites, cells.dtype)
        self.size = self.coordinates.size

    def __call__(self, u: Tensor) -> Tensor:
        """log p(x_n, u_n) [s, n]."""
        return _summed(_log_p(self.trace(u), u)) + self.log_volume(u)

    def by_level(self, u: Tensor, site: str) -> Tensor:
        """log p(x_n, u_n, k_n) for every level k of an enumerated site [levels, s, n]."""
        trace = self.trace(u)
        levels = _enumerated(trace)
        if site not in levels:
            raise KeyError(f"the model enumerates no site {site!r}; it enumerates {', '.join(levels) or 'nothing'}")
        log_p = _log_p(trace, u).movedim(levels[site], 0)
        while log_p.dim() > 3:
            log_p = log_p.logsumexp(1)
        return log_p + self.log_volume(u)

    def by_component(self, u: Tensor) -> Tensor:
        """log p(x_n, u_n, k_n) for every joint level k of the enumerated sites [k, s, n]; they sum to p(x, u)."""
        log_p = _log_p(self.trace(u), u)
        return log_p.reshape(-1, *u.shape[:-1]) + self.log_volume(u)

    @torch.no_grad()
    def component_priors(self) -> tuple[Tensor, Tensor] | None:
        """Means and standard deviations [k, n, size] of latents on the real line whose prior depends on the level k.

        They are NaN for other latents. None if there is no such latent.
        """
        trace = self.trace(self.origin())
        shape = _log_p(trace, self.origin()).shape
        means, deviations = [], []
        for name, site in self.sites.items():
            fn: Any = trace.nodes[name]["fn"]
            mean = deviation = torch.full((site.size,), torch.nan).to(self.origin())
            if len(fn.batch_shape) > 2 and is_real(site):
                mean, deviation = fn.mean, fn.variance.sqrt()
            means.append(mean.expand(*shape, site.size))
            deviations.append(deviation.expand(*shape, site.size))
        loc, scale = (torch.cat(each, -1).double().reshape(-1, shape[-1], self.size) for each in (means, deviations))
        return None if loc.isnan().all() else (loc, scale)

    def log_likelihood(self, u: Tensor, site: str = "x") -> Tensor:
        """log p(x_n | u_n) of an observed site [s, n]; enumerated sites are summed over."""
        trace = self.trace(u)
        latent = self._latents(trace)
        return _summed(_log_p(trace, u, [*latent, site])) - _summed(_log_p(trace, u, latent))

    def log_prior(self, u: Tensor) -> Tensor:
        """log p(u_n) of the latents [s, n]; enumerated sites are summed over."""
        trace = self.trace(u)
        latent = self._latents(trace)
        return _summed(_log_p(trace, u, latent)) + self.log_volume(u)

    def _latents(self, trace: poutine.Trace) -> list[str]:
        return [name for name, node in sampled(trace.nodes).items() if name in self.sites or not node["is_observed"]]

    def by_gene(self, u: Tensor, site: str = "x") -> tuple[Tensor, Tensor]:
        """log p(x_ng | u_n, k_n) of every gene [k, s, n, g], and log p(k_n | x_n, u_n) [k, s, n], k joint levels."""
        trace = self.trace(u)
        fn: Any = trace.nodes[site]["fn"]
        if not hasattr(fn, "log_pmf"):
            raise ValueError(
                f"genes are not compared one by one under {fn}: given the latents they are not independent"
            )
        log_p = _log_p(trace, u)
        log_pmf = fn.log_pmf(self.cells.x).to(u.dtype).expand(*log_p.shape, -1)
        levels = log_p.reshape(-1, *u.shape[:-1]).log_softmax(0)
        return log_pmf.reshape(*levels.shape, -1), levels

    def predicted(self, u: Tensor, site: str = "x") -> Tensor:
        """Draws of an observed site at these latents [s, n, ...]; enumerated sites are drawn from their posterior."""
        trace = self.trace(u)
        fn: Any = trace.nodes[site]["fn"]
        fn = fn.after(trace.nodes[site]["value"]) if hasattr(fn, "after") else fn
        draws = fn.expand(torch.broadcast_shapes(fn.batch_shape, u.shape[:-1])).sample()
        batch = draws.shape[: draws.dim() - fn.event_dim]
        if len(batch) == 2:
            return draws
        levels = _log_p(trace, u).expand(batch).flatten(0, -3).movedim(0, -1)  # [s, n, levels]
        chosen = Categorical(logits=levels).sample().reshape(1, *batch[-2:], *(1,) * fn.event_dim)
        return torch.take_along_dim(draws.flatten(0, len(batch) - 3), chosen, 0)[0]

    def observed(self) -> dict[str, tuple[str, str]]:
        """Base measure and support of every observed site: is it a probability or a density, and over which values."""
        trace = self.trace(self.origin())
        measures = {}
        for name, node in sampled(trace.nodes).items():
            if name not in self.sites and node["is_observed"]:
                natural = "counting" if node["fn"].support.is_discrete else "lebesgue"
                measures[name] = getattr(node["fn"], "base_measure", natural), str(node["fn"].support)
        return measures

    def levels(self) -> dict[str, int]:
        """How many levels every enumerated site has."""
        trace = self.trace(self.origin())
        shape = _log_p(trace, self.origin()).shape
        return {name: shape[axis] for name, axis in _enumerated(trace).items()}

    def decoded(self) -> int:
        """How many times a draw is decoded: once for every level of enumerated sites that the counts depend on."""
        nodes = sampled(self.trace(self.origin()).nodes)
        counts: list[Any] = [
            node["fn"] for name, node in nodes.items() if node["is_observed"] and name not in self.sites
        ]
        return max((fn.batch_shape[:-1].numel() for fn in counts), default=1)

    def take(self, index: Tensor) -> "Joint":
        """The density of some of the cells. Their neighbours, which guides read, stay only if z depends on them."""
        chunk = self.chunk and self.chunk * len(self.cells) // max(len(index), 1)  # fewer cells, more draws of each
        hops = hops_of(self.model) if self.cells.before is None else None
        return Joint(self.model, self.sites, self.cells.take(index, hops), chunk)

    def origin(self) -> Tensor:
        """u = 0 for every cell [1, n, size]."""
        return torch.zeros(1, len(self.cells), self.size, dtype=torch.float64, device=self.cells.device)

    def values(self, u: Tensor) -> dict[str, Tensor]:
        """The value of every site, on its support [s, n, ...]."""
        return self.coordinates.values(u)

    def log_volume(self, u: Tensor) -> Tensor:
        """log |dz / du| [s, n]."""
        return self.coordinates.log_volume(u)

    def trace(self, u: Tensor) -> poutine.Trace:
        """A trace of the model at these latents, with discrete sites enumerated in dimensions on the left of [s, n]."""
        values = {name: value.to(self.cells.dtype) for name, value in self.values(u).items()}
        conditioned = poutine.condition(self.model, data=values)
        with GivenOthers():
            trace = poutine.trace(poutine.enum(conditioned, first_available_dim=-3)).get_trace(self.cells)
        levels = _enumerated(trace)
        nodes = sampled(trace.nodes)
        if unknown := set(self.sites) - set(nodes):
            raise ValueError(f"the guide covers {sorted(unknown)}, which are not in the model: size it on this model")
        for name, node in nodes.items():
            if not is_local(node):
                raise ValueError(_shared(name))
            if not node["is_observed"] and name not in levels:
                raise ValueError(
                    f"site {name!r} is covered by no site of the guide and is not enumerated: "
                    'size the guide on this model, or mark the site infer={"enumerate": "parallel"}'
                )
        return trace


def _enumerated(trace: poutine.Trace) -> dict[str, int]:
    """The dimension, counted from the right, on which every enumerated site has its levels."""
    axes = {name: enumerated_dim(node) for name, node in sampled(trace.nodes).items()}
    return {name: axis for name, axis in axes.items() if axis is not None}


def _log_p(trace: poutine.Trace, u: Tensor, names: Iterable[str] | None = None) -> Tensor:
    """Sum of the log-densities of the sites [..., s, n], masked, and not scaled to the size of a data set."""
    total = u.new_zeros(u.shape[:-1])
    for name in sampled(trace.nodes) if names is None else names:
        node: Any = trace.nodes[name]
        total = total + scale_and_mask(node["fn"].log_prob(node["value"]), mask=node["mask"])
    return total


def _summed(log_p: Tensor) -> Tensor:
    """Enumerated levels summed out: [..., s, n] to [s, n]."""
    return log_p if log_p.dim() == 2 else log_p.flatten(0, -3).logsumexp(0)


def _shared(name: str) -> str:
    return (
        f"site {name!r} is shared by all cells, so that they are not independent and log p(x_n) is not defined cell by "
        "cell. All cells together have an evidence: data_evidence(fit, cells). For one of each cell, use a part with a "
        "parameter there (PerGene() instead of RandomDispersion(), say)"
    )
