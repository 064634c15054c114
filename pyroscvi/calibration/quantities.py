"""What is ranked: functions of the latents of a cell, and of its counts, that a posterior may be wrong about.

Each coordinate is ranked, products of two (a posterior may have every coordinate right and no correlations), the
square of the norm, the logarithm of a size, discrete latents; and always log p(x | z). A guide that returns the prior
and looks at no data passes every other rank: averaged over data that the model makes, the posterior *is* the prior.

References
    Modrak, M. et al. (2023) Simulation-based calibration checking for Bayesian computation: the choice of test
    quantities shapes sensitivity. Bayesian Anal. doi:10.1214/23-BA1404
"""

from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.streams import Streams
from pyroscvi.program import Site

__all__ = ["drawn_levels", "likelihoods", "of_latents", "pairs"]

Pairs = Mapping[str, list[tuple[int, int]]]


def pairs(sites: Mapping[str, Site], most: int, seed: int) -> Pairs:
    """Which products of two coordinates are looked at, by site: all of them, or ``most`` by lot."""
    found = {}
    for name, site in sites.items():
        every = list(combinations(range(site.size), 2))
        if len(every) > most:
            chosen = np.random.default_rng(seed).choice(len(every), most, replace=False)
            every = [every[i] for i in sorted(chosen)]
        found[name] = every
    return found


def of_latents(sites: Mapping[str, Site], u: Tensor, pairs: Pairs) -> dict[str, Tensor]:
    """Coordinates, products and squares of the norm [..., n] of unconstrained latents u [..., n, d]."""
    found: dict[str, Tensor] = {}
    parts = u.split([site.size for site in sites.values()], -1) if sites else ()
    for (name, site), z in zip(sites.items(), parts, strict=True):
        shown = _shown(name, site)
        alone = site.size == 1
        found |= {shown if alone else f"{shown}[{j}]": z[..., j] for j in range(site.size)}
        found |= {f"{shown}[{i}] {shown}[{j}]": z[..., i] * z[..., j] for i, j in pairs[name]}
        if not alone:
            found[f"|{shown}|²"] = z.square().sum(-1)
    return found


def likelihoods(joint: Joint, u: Tensor, chunk: int) -> dict[str, Tensor]:
    """log p(x | z) [s, n] of every observed site, at latents u [s, n, d]; what is enumerated is summed over."""
    given = ", ".join(joint.sites)
    return {
        f"log p({site} | {given})": torch.cat([joint.log_likelihood(piece, site) for piece in u.split(chunk)])
        for site in joint.observed()
    }


def drawn_levels(joint: Joint, sites: Iterable[str], u: Tensor, streams: Streams, chunk: int) -> dict[str, Tensor]:
    """k ~ p(k | x, u) [s, n] of enumerated sites, at latents u [s, n, d]."""
    found = {}
    for site in sites:
        heaped = [joint.by_level(piece, site).softmax(0).cumsum(0)[:-1] for piece in u.split(chunk)]
        found[site] = (streams.uniform(len(u)).to(u) > torch.cat(heaped, 1)).sum(0)
    return found


def _shown(name: str, site: Site) -> str:
    """What the unconstrained numbers of a site are called."""
    support = getattr(site.support, "base_constraint", site.support)
    if isinstance(support, type(constraints.real)):
        return name
    return f"log {name}" if isinstance(support, type(constraints.positive)) else f"u_{name}"
