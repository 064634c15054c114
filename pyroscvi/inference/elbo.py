"""The negative evidence lower bound, for reparameterised guides and discrete sites that the model sums out.

    ELBO = E_q [ log sum_k p(x, k, z) - log q(z) ]

It equals Pyro's ``TraceEnum_ELBO`` on the same draw, for models with one plate, over cells. So it is short: no
contraction of tensor networks, no score functions, and no number leaves the device. Where the Kullback-Leibler
divergence of a latent from its prior has a closed form, it replaces the Monte Carlo estimate.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.inference.divergence import divergence

CELLS_DIM = -1  # the dimension of the plate over cells; enumerated sites take the dimensions on its left

Program = Callable[[Cells], Any]
Sites = dict[str, Any]


class Bound(NamedTuple):
    """The ELBO in two parts, both multiplied by Pyro's scales (in a minibatch, by the cells that it stands for).

    cells   of every cell, given the latents that cells share               [n]
    shared  minus the divergence of those shared latents from their priors  []
    """

    cells: Tensor
    shared: Tensor

    def total(self) -> Tensor:
        return self.cells.sum() + self.shared


def negative_elbo(model: Program, guide: Program, cells: Cells, *, analytic: bool = True) -> Tensor:
    """Minus the ELBO of the whole data set that these cells stand for, in nats []: one draw, differentiable."""
    return -bound(model, guide, cells, analytic=analytic).total()


def bound(model: Program, guide: Program, cells: Cells, *, analytic: bool = True) -> Bound:
    """The ELBO, cell by cell, from one draw of the guide.

    analytic   use closed-form divergences where there are any; otherwise the draw, exactly as ``TraceEnum_ELBO`` does

    Raises ValueError where a latent of the guide cannot be reparameterised, or a site outside the plate is not scalar.
    """
    return bound_of(*joint(model, guide, cells), cells, analytic=analytic)


def bound_of(p: Sites, q: Sites, cells: Cells, *, analytic: bool = True) -> Bound:
    """The ELBO, cell by cell, from the sample sites of a model and a guide."""
    with pyro.validation_enabled(False):
        known = divergences(p, q) if analytic else {}
        gained = [factor(site) for name, site in p.items() if name not in known]
        paid = [factor(site) for name, site in q.items() if name not in known] + list(known.values())
    nothing = torch.zeros(len(cells), dtype=cells.dtype, device=cells.device)
    of_cells = summed([f for f in gained if f.local], nothing) - sum(f.scaled() for f in paid if f.local)
    shared = sum(f.scaled() for f in gained if not f.local) - sum(f.scaled() for f in paid if not f.local)
    return Bound(of_cells, nothing.new_zeros(()) + shared)


def joint(model: Program, guide: Program, cells: Cells) -> tuple[Sites, Sites]:
    """Sample sites of the model, run on one draw of the guide with its discrete sites enumerated; and of the guide."""
    with pyro.validation_enabled(False):
        q = poutine.trace(guide).get_trace(cells)
        enumerated = poutine.enum(poutine.replay(model, trace=q), first_available_dim=CELLS_DIM - 1)
        p = poutine.trace(enumerated).get_trace(cells)
    for name, site in _sites(q).items():
        if not site["fn"].has_rsample:
            raise ValueError(f"site {name!r} of the guide cannot be reparameterised: sum it out in the model instead")
    return _sites(p), _sites(q)


def _sites(trace: Trace) -> Sites:
    return {name: site for name, site in prune_subsample_sites(trace).nodes.items() if site["type"] == "sample"}


class Factor(NamedTuple):
    """One term of a log joint density: of cells [..., n], or shared by them []; ``scale`` counts it several times."""

    log_p: Tensor
    scale: Any = 1.0
    local: bool = True

    def scaled(self) -> Tensor:
        return self.log_p if self.scale == 1.0 else self.log_p * self.scale


def factor(site: Any, log_p: Tensor | None = None) -> Factor:
    """The log-density of a site at its value (or what is given in its place), masked."""
    log_p = site["fn"].log_prob(site["value"]) if log_p is None else log_p
    if site["mask"] is not None:
        log_p = torch.where(torch.as_tensor(site["mask"], device=log_p.device), log_p, 0.0)
    local = any(frame.vectorized for frame in site["cond_indep_stack"])
    if not local and log_p.dim():
        shape = tuple(log_p.shape)
        raise ValueError(
            f"site {site['name']!r} has batch shape {shape} outside the plate over cells: call .to_event()"
        )
    return Factor(log_p, site["scale"], local)


def summed(factors: Sequence[Factor], nothing: Tensor) -> Tensor:
    """log of the product of factors, all enumerated levels summed out; ``nothing`` is a zero for every cell [n]."""
    plain = sum((f.scaled() for f in factors if f.log_p.dim() <= 1), nothing)
    wide = [f for f in factors if f.log_p.dim() > 1]
    if not wide:
        return plain
    scale = wide[0].scale
    if any(f.scale != scale for f in wide):
        raise ValueError("sites that depend on an enumerated site must have one scale in common")
    return plain + product(wide).flatten(0, CELLS_DIM - 1).logsumexp(0) * scale


def product(factors: Sequence[Factor]) -> Tensor:
    """The unscaled sum of log-densities, levels on the left [..., n]."""
    first, *others = (f.log_p for f in factors)
    return sum(others, first)


def divergences(p: Sites, q: Sites) -> dict[str, Factor]:
    """KL(q || p) of every latent whose prior no enumerated site enters, where a closed form is known."""
    known = {}
    for name, site in q.items():
        prior = p.get(name)
        if prior is None or len(prior["fn"].batch_shape) > len(site["fn"].batch_shape):
            continue
        if prior["scale"] != site["scale"] or prior["mask"] is not site["mask"]:
            continue
        kl = divergence(site["fn"], prior["fn"])
        if kl is not None:
            known[name] = factor(site, kl)
    return known
