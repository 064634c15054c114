"""Everything that one pass through model and guide computes for cells, by name."""

from dataclasses import dataclass, fields
from math import log
from typing import Any, NamedTuple

import pyro
import torch
from anndata import AnnData
from torch import Tensor

from pyroscvi.analysis.corrected import Given, resampled
from pyroscvi.analysis.posterior import counts_of
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.proposals import flow_moments
from pyroscvi.evidence.reader import Reader
from pyroscvi.inference.elbo import Sites, divergences, factor, joint, summed
from pyroscvi.inference.objectives import log_levels
from pyroscvi.inference.seeds import seeded
from pyroscvi.program import Fitted
from pyroscvi.pyro_internals import alone, enumerated_dim

DRAWS = 100  # for the divergence of a corrected posterior from the prior


@dataclass(frozen=True, repr=False)
class Description:
    """Latents, divergences, likelihood and counts of n cells, from one draw of their latents.

    A model without continuous latents has d = 0 of them.

    mean          posterior mean of the site                                               [n, d]
    sample        the draw                                                                 [n, d]
    log_variance  log of its posterior variances                                           [n, d]
    covariance    its posterior covariance                                                 [n, d, d]
    kl            divergence from its prior of every latent of cells, in nats              {site: [n]}
    log_likelihood  log p(x | z) at the draw, with all other observed sites                  [n]
    counts        distribution of the counts at the draw                                   batch shape [n]
    logits        log p(k | z) of every level of every enumerated site; log p(k | x, z) if x depends on k given z
                                                                                           {site: [n, k]}
    class_loss    -log p(y = label | z); NaN where the label is unknown, None without labels [n]
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
        """log p(x | z) minus the divergences [n]: an estimate of the bound from one draw, without shared latents."""
        return self.log_likelihood - sum(self.kl.values())

    def __repr__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        shapes = (f"{name}={list(value.shape)}" for name, value in values.items() if isinstance(value, Tensor))
        return (
            f"Description({', '.join(shapes)}, kl={list(self.kl)}, logits={list(self.logits)}, counts={self.counts!r})"
        )


@torch.no_grad()
@alone
def describe(
    fit: Fitted, cells: Cells | AnnData, *, site: str = "z", corrected: bool = False, seed: int = 0
) -> Description:
    """One draw of the latents of these cells, and all that follows from it; ``site`` is the latent that is described.

    Draws and moments are those of the guide. With ``corrected`` they are those of the posterior itself, by importance
    sampling from the guide; the divergence from the prior is then that of all latents together. All cells are computed
    at once: [n, g] has to fit into memory.
    """
    cells = fit.read(cells)
    if site not in fit.guide.sites and (site != "z" or any(each.local for each in fit.guide.sites.values())):
        raise KeyError(f"the guide has no site {site!r}; it has {', '.join(fit.guide.sites) or 'none'}")
    better = _corrected(fit, cells, site, seed) if corrected and site in fit.guide.sites else None
    with seeded(seed, cells.device), pyro.validation_enabled(False):
        p, q = joint(fit.model, fit.guide if better is None else better.guide, cells)
        posterior = fit.guide.posteriors(cells).get(site)
    local = {name: s for name, s in p.items() if factor(s).local}
    zero = torch.zeros(len(cells), dtype=cells.dtype, device=cells.device)
    empty = zero.unsqueeze(-1)[:, :0]
    if posterior is None:
        mean, covariance = empty, empty.unsqueeze(-1)[..., :0]
    else:
        mean, covariance = _moments(posterior) if better is None else better.moments
    latent = [factor(s) for s in local.values() if not s["is_observed"]]
    logits = {name: log_levels(p, name) for name, s in local.items() if enumerated_dim(s)}
    counts = counts_of(p)
    return Description(
        mean=mean,
        sample=q[site]["value"] if site in q else empty,
        log_variance=covariance.diagonal(dim1=-2, dim2=-1).log(),
        covariance=covariance,
        kl=_kl(local, q, zero) if better is None else {" + ".join(better.guide.values): better.kl},
        log_likelihood=summed([factor(s) for s in local.values()], zero) - summed(latent, zero),
        counts=counts.counts if counts.weights is None else counts,
        logits=logits,
        class_loss=_class_loss(logits.get("y"), cells.label),
    )


def _moments(q: Any) -> tuple[Tensor, Tensor]:
    if (sampled := flow_moments(q)) is not None:
        mean, scale_tril = sampled
        return mean, scale_tril @ scale_tril.mT
    covariance = getattr(q, "covariance_matrix", None)
    return q.mean, torch.diag_embed(q.variance) if covariance is None else covariance


class Corrected(NamedTuple):
    """Posterior draws as a guide; mean and covariance of a site; the divergence from the prior [n]."""

    guide: Given
    moments: tuple[Tensor, Tensor]
    kl: Tensor


def _corrected(fit: Fitted, cells: Cells, site: str, seed: int) -> Corrected:
    reader = Reader(fit, cells)
    sizes = [each.size for each in reader.guide.sites.values()]
    place = list(reader.guide.sites).index(site)
    block = slice(sum(sizes[:place]), sum(sizes[: place + 1]))
    draws: list[dict[str, Tensor]] = []
    pieces: list[tuple[Tensor, Tensor, Tensor]] = []
    for target, pool, u in resampled(reader, DRAWS, seed):
        draws.append(target.joint.values(u[:1]))
        log_p = torch.cat(
            [target.joint(some) - target.joint.log_prior(some) for some in u.split(target.chunk or DRAWS)]
        )
        kl = log_p.mean(0) - (pool.log_w.logsumexp(0) - log(len(pool.log_w)))  # E log p(x | z) - log p(x)
        pieces.append((pool.mean(pool.u)[:, block], pool.covariance()[:, block, block], kl))
    mean, covariance, kl = (torch.cat(column).to(cells.dtype) for column in zip(*pieces, strict=True))
    values = {name: torch.cat([piece[name][0] for piece in draws]).to(cells.dtype) for name in reader.guide.sites}
    shared = {name: value.to(cells.dtype) for name, value in reader.held.items()}
    return Corrected(Given(values, shared), (mean, covariance), kl)


def _kl(p: Sites, q: Sites, zero: Tensor) -> dict[str, Tensor]:
    """Divergence of every latent; latents whose priors share an enumerated site have one together, at the draw."""
    known = {name: f.log_p for name, f in divergences(p, q).items() if name in p}
    rest = {name: factor(q[name]).log_p for name in q if name in p and name not in known}
    separate = [name for name in rest if factor(p[name]).log_p.dim() == 1]
    together = [name for name in rest if name not in separate]
    kl = known | {name: rest[name] - factor(p[name]).log_p for name in separate}
    if together:
        levels = [name for name, s in p.items() if enumerated_dim(s)]
        prior = summed([factor(p[name]) for name in [*levels, *together]], zero)
        kl[" + ".join(together)] = sum(rest[name] for name in together) - prior
    return kl


def _class_loss(logits: Tensor | None, label: Tensor | None) -> Tensor | None:
    if logits is None or label is None:
        return None
    log_p = logits.gather(-1, label.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(label >= 0, -log_p, torch.nan)
