"""The quantities that are ranked: functions of the latents of a cell, and of its counts.

These are each coordinate, products of two coordinates (a posterior may be right in every coordinate and wrong in their
correlations), the square of the norm, the logarithm of a size, discrete latents, and always log p(x | z). A guide that
ignores the data and returns the prior fails in log p(x | z) alone: averaged over simulated data, the posterior *is* the
prior.

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

Pairs = Mapping[str, list[tuple[int, int]]]


def pairs(sites: Mapping[str, Site], most: int, seed: int) -> Pairs:
    """The products of two coordinates that are ranked, by site: all of them, or ``most`` at random."""
    products = {}
    for name, site in sites.items():
        every = list(combinations(range(site.size), 2))
        if len(every) > most:
            chosen = np.random.default_rng(seed).choice(len(every), most, replace=False)
            every = [every[i] for i in sorted(chosen)]
        products[name] = every
    return products


def of_latents(sites: Mapping[str, Site], u: Tensor, pairs: Pairs) -> dict[str, Tensor]:
    """Coordinates, products and squares of the norm [..., n] of unconstrained latents u [..., n, d]."""
    values: dict[str, Tensor] = {}
    parts = u.split([site.size for site in sites.values()], -1) if sites else ()
    for (name, site), z in zip(sites.items(), parts, strict=True):
        label = _label(name, site)
        single = site.size == 1
        values |= {label if single else f"{label}[{j}]": z[..., j] for j in range(site.size)}
        values |= {f"{label}[{i}] {label}[{j}]": z[..., i] * z[..., j] for i, j in pairs[name]}
        if not single:
            values[f"|{label}|²"] = z.square().sum(-1)
    return values


def likelihoods(joint: Joint, u: Tensor, chunk: int) -> dict[str, Tensor]:
    """log p(x | z) [s, n] of every observed site, at latents u [s, n, d]; enumerated sites are summed over."""
    given = " | " + ", ".join(joint.sites) if joint.sites else ""
    return {
        f"log p({site}{given})": torch.cat([joint.log_likelihood(piece, site) for piece in u.split(chunk)])
        for site in joint.observed()
    }


def drawn_levels(joint: Joint, sites: Iterable[str], u: Tensor, streams: Streams, chunk: int) -> dict[str, Tensor]:
    """k ~ p(k | x, u) [s, n] of enumerated sites, at latents u [s, n, d]."""
    levels = {}
    for site in sites:
        cumulative = [joint.by_level(piece, site).softmax(0).cumsum(0)[:-1] for piece in u.split(chunk)]
        levels[site] = (streams.uniform(len(u)).to(u) > torch.cat(cumulative, 1)).sum(0)
    return levels


def _label(name: str, site: Site) -> str:
    """The name of the unconstrained numbers of a site."""
    support = getattr(site.support, "base_constraint", site.support)
    if isinstance(support, type(constraints.real)):
        return name
    return f"log {name}" if isinstance(support, type(constraints.positive)) else f"u_{name}"
