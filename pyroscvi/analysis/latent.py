"""Where cells lie in the latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyroscvi.inference.seeds import seeded
from pyroscvi.program import onto

if TYPE_CHECKING:
    from pyroscvi.inference.result import Fit

__all__ = ["latent"]

MANY = 256  # draws for the mean of a site that is not Gaussian


@torch.no_grad()
def latent(
    fit: Fit, cells: Any, samples: int | None = None, site: str = "z", *, seed: int = 0, batch_size: int = 1024
) -> np.ndarray:
    """Posterior mean of a site [n, d], or draws from its posterior [samples, n, d]; without n where cells share it."""
    cells = fit.read(cells)
    if site not in fit.guide.sites:
        raise KeyError(f"no site {site!r} in the guide: there are {', '.join(fit.guide.sites)}")
    where = fit.guide.sites[site]
    pieces = []
    with seeded(seed, cells.device):
        for batch in cells.minibatches(batch_size, hops=fit.guide.encoder.hops):
            q = onto(where.support, fit.guide.posteriors(batch)[site])
            pieces.append(_mean(q) if samples is None else q.sample((samples,)))
            if not where.local:
                break
    rows = 0 if samples is None else 1
    return torch.cat(pieces, rows).cpu().numpy() if where.local else pieces[0].cpu().numpy()


def _mean(q: Any) -> Tensor:
    if isinstance(q, torch.distributions.TransformedDistribution):
        return q.sample((MANY,)).mean(0)
    return q.mean
