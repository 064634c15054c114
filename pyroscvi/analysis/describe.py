"""Everything that one pass through model and guide says about cells, under names."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import log
from typing import TYPE_CHECKING, Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pyroscvi.analysis.corrected import Given, resampled
from pyroscvi.analysis.posterior import counted
from pyroscvi.data.cells import Cells
from pyroscvi.inference.elbo import Sites, divergences, factor, joint, summed
from pyroscvi.inference.objectives import log_levels
from pyroscvi.inference.seeds import seeded
from pyroscvi.pyro_internals import alone, enumerated_dim

if TYPE_CHECKING:
    from pyroscvi.fitting.result import Fit

__all__ = ["Description", "describe"]

MANY = 100  # draws for a divergence of a corrected posterior


@dataclass(frozen=True, repr=False)
class Description:
    """What a fit says of n cells, from one draw of their latents.

    mean          posterior mean of the site                                               [n, d]
    sample        the draw                                                                 [n, d]
    log_variance  log of its posterior variances                                           [n, d]
    covariance    its posterior covariance                                                 [n, d, d]
    kl            divergence from its prior of every latent of cells, in nats              {site: [n]}
    log_likelihood  log p(x | z) at the draw, whatever else is observed included             [n]
    counts        distribution of the counts at the draw                                   batch shape [n]
    logits        log p(k | z) of every level of every enumerated site                     {site: [n, k]}
    class_loss    -log p(y = label | z); NaN where no label was given, None without labels   [n]
    """

    mean: Tensor
    sample: Tensor
    log_variance: Tensor
    covariance: Tensor
    kl: dict[str, Tensor]
    log_likelihood: Tensor
    counts: Any
    logits: dict[str, Tensor]
    class_loss: Tensor | None

    @property
    def probabilities(self) -> dict[str, Tensor]:
        """p(k | z) of every level of every enumerated site {site: [n, k]}."""
        return {site: logits.exp() for site, logits in self.logits.items()}

    @property
    def elbo(self) -> Tensor:
        """log p(x | z) less the divergences [n]: shared latents aside, a draw of the bound."""
        return self.log_likelihood - sum(self.kl.values())

    def __repr__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        told = (f"{name}={list(value.shape)}" for name, value in values.items() if isinstance(value, Tensor))
        return f"Description({', '.join(told)}, kl={list(self.kl)}, logits={list(self.logits)}, counts={self.counts!r})"


@torch.no_grad()
@alone
def describe(fit: Fit, cells: Any, *, site: str = "z", corrected: bool = False, seed: int = 0) -> Description:
    """One draw of the latents of these cells, and all that follows from it; ``site`` is the latent that is described.

    Draws and moments are of the guide; ``corrected``, of the posterior itself, by importance sampling from the guide:
    the divergence from the prior is then that of all latents together. All cells at once: [n, g] has to fit into
    memory.
    """
    cells = fit.read(cells)
    if site not in fit.guide.sites:
        raise KeyError(f"the guide has no site {site!r}; it has {', '.join(fit.guide.sites)}")
    found = _corrected(fit, cells, site, seed) if corrected else None
    with seeded(seed, cells.device), pyro.validation_enabled(False):
        p, q = joint(fit.model, fit.guide if found is None else found.guide, cells)
        mean, covariance = _moments(fit.guide.posteriors(cells)[site]) if found is None else found.moments
    local = {name: s for name, s in p.items() if factor(s).local}
    nothing = torch.zeros(len(cells), dtype=cells.dtype, device=cells.device)
    latent = [factor(s) for s in local.values() if not s["is_observed"]]
    logits = {name: log_levels(p, name) for name, s in local.items() if enumerated_dim(s)}
    counts = counted(p)
    return Description(
        mean=mean,
        sample=q[site]["value"],
        log_variance=covariance.diagonal(dim1=-2, dim2=-1).log(),
        covariance=covariance,
        kl=_kl(local, q, nothing) if found is None else {" + ".join(fit.guide.sites): found.kl},
        log_likelihood=summed([factor(s) for s in local.values()], nothing) - summed(latent, nothing),
        counts=counts.counts if counts.weights is None else counts,
        logits=logits,
        class_loss=_class_loss(logits.get("y"), cells.label),
    )


def _moments(q: Any) -> tuple[Tensor, Tensor]:
    covariance = getattr(q, "covariance_matrix", None)
    return q.mean, torch.diag_embed(q.variance) if covariance is None else covariance


class Corrected(NamedTuple):
    """Draws of the posterior, as a guide; mean and covariance of a site; the divergence from the prior [n]."""

    guide: Given
    moments: tuple[Tensor, Tensor]
    kl: Tensor


def _corrected(fit: Fit, cells: Cells, site: str, seed: int) -> Corrected:
    sizes = [here.size for here in fit.guide.sites.values()]
    at = list(fit.guide.sites).index(site)
    here = slice(sum(sizes[:at]), sum(sizes[: at + 1]))
    draws: list[dict[str, Tensor]] = []
    pieces: list[tuple[Tensor, Tensor, Tensor]] = []
    for found in resampled(fit, cells, MANY, seed):
        draws.append(found.read.joint.values(found.draws[:1]))
        u, pool = found.draws, found.pool
        log_p = torch.cat(
            [found.read.joint(few) - found.read.joint.log_prior(few) for few in u.split(found.read.chunk)]
        )
        kl = log_p.mean(0) - (pool.log_w.logsumexp(0) - log(len(pool.log_w)))  # E log p(x | z) - log p(x)
        pieces.append((pool.mean(pool.u)[:, here], pool.covariance()[:, here, here], kl))
    mean, covariance, kl = (torch.cat(column).to(cells.dtype) for column in zip(*pieces, strict=True))
    values = {name: torch.cat([piece[name][0] for piece in draws]).to(cells.dtype) for name in fit.guide.sites}
    return Corrected(Given(values), (mean, covariance), kl)


def _kl(p: Sites, q: Sites, nothing: Tensor) -> dict[str, Tensor]:
    """Of every latent; those whose priors share an enumerated site are counted together, at the draw."""
    known = {name: f.log_p for name, f in divergences(p, q).items() if name in p}
    rest = {name: factor(q[name]).log_p for name in q if name in p and name not in known}
    alone = [name for name in rest if factor(p[name]).log_p.dim() == 1]
    together = [name for name in rest if name not in alone]
    kl = known | {name: rest[name] - factor(p[name]).log_p for name in alone}
    if together:
        levels = [name for name, s in p.items() if enumerated_dim(s)]
        prior = summed([factor(p[name]) for name in [*levels, *together]], nothing)
        kl[" + ".join(together)] = sum(rest[name] for name in together) - prior
    return kl


def _class_loss(logits: Tensor | None, label: Tensor | None) -> Tensor | None:
    if logits is None or label is None:
        return None
    told = logits.gather(-1, label.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(label >= 0, -told, torch.nan)
