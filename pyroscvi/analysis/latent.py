"""Where cells lie in the latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyroscvi.analysis.corrected import resampled
from pyroscvi.analysis.posterior import each
from pyroscvi.data.cells import Cells
from pyroscvi.program import onto
from pyroscvi.pyro_internals import alone

if TYPE_CHECKING:
    from pyroscvi.fitting.result import Fit

__all__ = ["latent"]

MANY = 256  # draws for the mean of a posterior that has none in closed form


@alone
def latent(
    fit: Fit,
    cells: Any,
    samples: int | None = None,
    site: str = "z",
    *,
    corrected: bool = False,
    seed: int = 0,
    batch_size: int = 4096,
) -> np.ndarray:
    """Posterior mean of a site [n, d], or draws from its posterior [samples, n, d]; without n where cells share it.

    The mean of a site that is confined (a size is positive) is that of 256 draws. KeyError for a site it does not have.

    corrected  ask the posterior itself, by importance sampling from the guide, and not the guide: slower by the cost of
               some thousand evaluations of every cell
    """
    cells = fit.read(cells)
    if site not in fit.guide.sites:
        raise KeyError(f"the guide has no site {site!r}; it has {', '.join(fit.guide.sites)}")
    if corrected:
        return _corrected(fit, cells, samples, site, seed)
    support, local = fit.guide.sites[site].support, fit.guide.sites[site].local

    def read(minibatch: Cells) -> Tensor:
        q = onto(support, fit.guide.posteriors(minibatch)[site])
        return _mean(q) if samples is None else q.sample(torch.Size([samples]))

    pieces = each(fit, cells, read, seed, batch_size)
    if not local:
        return next(pieces).cpu().numpy()
    return torch.cat([piece.cpu() for piece in pieces], 0 if samples is None else 1).numpy()


def _corrected(fit: Fit, cells: Cells, samples: int | None, site: str, seed: int) -> np.ndarray:
    pieces = []
    for found in resampled(fit, cells, samples or 1, seed):
        values = found.read.joint.values
        z = found.pool.mean(values(found.pool.u)[site]) if samples is None else values(found.draws)[site]
        pieces.append(z.to(cells.dtype).cpu())
    return torch.cat(pieces, 0 if samples is None else 1).numpy()


def _mean(q: Any) -> Tensor:
    confined = isinstance(q, torch.distributions.TransformedDistribution)
    return q.sample(torch.Size([MANY])).mean(0) if confined else q.mean
