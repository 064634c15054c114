"""The negative evidence lower bound, for reparameterised guides and discrete sites that the model sums out.

    ELBO = E_q [ log sum_k p(x, k, z) - log q(z) ]

It is Pyro's ``TraceEnum_ELBO`` on the same draw, restricted to what the zoo is made of (one plate, over cells), and so it
fits on a page: no contraction of tensor networks, no score functions, and no number leaves the device. Where the
Kullback-Leibler divergence of a latent from its prior is known in closed form it takes the place of a draw of it.
"""

from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.inference.divergence import divergence
from pyroscvi.program import Guide, Model

__all__ = ["Bound", "bound", "joint", "log_sum", "negative_elbo"]

CELLS = -1  # the dimension of the plate over cells; enumerated sites take the dimensions on its left


class Bound(NamedTuple):
    """The ELBO in two parts, both multiplied by Pyro's scales (in a minibatch, by the cells that it stands for).

    cells   of every cell, given the latents that cells share         [n]
    shared  minus the divergence of those shared latents from their priors  []
    """

    cells: Tensor
    shared: Tensor

    def total(self) -> Tensor:
        return self.cells.sum() + self.shared


def negative_elbo(model: Model, guide: Guide, cells: Cells, *, analytic: bool = True) -> Tensor:
    """Minus the ELBO of the whole data set that these cells stand for, in nats: one draw, differentiable."""
    return -bound(model, guide, cells, analytic=analytic).total()


def bound(model: Model, guide: Guide, cells: Cells, *, analytic: bool = True) -> Bound:
    """The ELBO, cell by cell, from one draw of the guide.

    analytic   use closed-form divergences where there are any; otherwise the draw, exactly as ``TraceEnum_ELBO`` does
    """
    p, q = joint(model, guide, cells)
    known = _divergences(p, q) if analytic else {}
    plus = [_factor(site) for name, site in p.items() if name not in known]
    minus = [_factor(site) for name, site in q.items() if name not in known]
    zero = torch.zeros((), dtype=cells.dtype, device=cells.device)
    of_cells = log_sum([f for f in plus if f.local], zero.expand(len(cells)))
    of_cells = (
        of_cells - sum(f.scaled() for f in minus if f.local) - sum(kl.scaled() for kl in known.values() if kl.local)
    )
    shared = sum((f.scaled().sum() for f in plus if not f.local), zero)
    for f in [*minus, *known.values()]:
        shared = shared if f.local else shared - f.scaled().sum()
    return Bound(of_cells, shared)


def joint(model: Model, guide: Any, cells: Cells) -> tuple[dict[str, dict], dict[str, dict]]:
    """The sample sites of the model, run on one draw of the guide with its discrete sites enumerated, and of the guide."""
    with pyro.validation_enabled(False):
        q = poutine.trace(guide).get_trace(cells)
        enumerated = poutine.enum(poutine.replay(model, trace=q), first_available_dim=CELLS - 1)
        p = poutine.trace(enumerated).get_trace(cells)
    return _sites(p), _sites(q)


def _sites(trace: Trace) -> dict[str, dict]:
    return {name: site for name, site in prune_subsample_sites(trace).nodes.items() if site["type"] == "sample"}


class Factor(NamedTuple):
    """One term of a log joint density: of cells [..., n], or shared by them []; scale counts it several times."""

    log_p: Tensor
    scale: Any
    local: bool

    def scaled(self) -> Tensor:
        return self.log_p if self.scale == 1.0 else self.log_p * self.scale


def _factor(site: dict, log_p: Tensor | None = None) -> Factor:
    log_p = site["fn"].log_prob(site["value"]) if log_p is None else log_p
    if site["mask"] is False:
        log_p = torch.zeros_like(log_p)
    elif site["mask"] not in (None, True):
        log_p = torch.where(site["mask"], log_p, 0.0)
    local = any(frame.vectorized for frame in site["cond_indep_stack"])
    if not local and log_p.dim():
        raise ValueError(f"site {site['name']!r} has batch shape {tuple(log_p.shape)} outside the plate over cells: "
                         "put it inside the plate, or call .to_event()")  # fmt: skip
    return Factor(log_p, site["scale"], local)


def log_sum(factors: list[Factor], zero: Tensor, keep: int | None = None) -> Tensor:
    """log of the product of all factors, summed over every enumerated dimension (but ``keep``) [n], or [keep, n]."""
    plain = sum((f.scaled() for f in factors if f.log_p.dim() <= -CELLS), zero)
    wide = [f for f in factors if f.log_p.dim() > -CELLS]
    if not wide:
        return plain
    if len({f.scale for f in wide}) > 1:
        raise ValueError("sites that depend on an enumerated site must have one scale in common")
    total = sum(f.log_p for f in wide)
    summed = [dim for dim in range(-total.dim(), CELLS) if dim != keep]
    total = total.logsumexp(summed, keepdim=keep is not None) if summed else total
    return plain + total * wide[0].scale


def _divergences(p: dict[str, dict], q: dict[str, dict]) -> dict[str, Factor]:
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
            known[name] = _factor(site, kl)
    return known
