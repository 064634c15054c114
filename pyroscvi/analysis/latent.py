"""The latent states of cells."""

from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from anndata import AnnData
from torch import Tensor

from pyroscvi.analysis.corrected import resampled
from pyroscvi.analysis.posterior import each
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.proposals import MOMENT_DRAWS, flow_samples
from pyroscvi.evidence.reader import Reader
from pyroscvi.program import Fitted, onto
from pyroscvi.pyro_internals import alone


@alone
def latent(
    fit: Fitted, cells: Cells | AnnData, samples: int | None = None, site: str = "z", *, corrected: bool = False,
    seed: int = 0, batch_size: int = 4096,
) -> np.ndarray:  # fmt: skip
    """Posterior mean of a site [n, d], or posterior samples [samples, n, d]; without axis n where cells share the site.

    samples     number of samples; None returns the mean. It is that of 512 samples where the guide is a flow, or the
                site is constrained (a positive size)
    site        name of the latent
    corrected   use the exact posterior by importance sampling, not the guide: it costs some thousand evaluations of
                every cell
    seed        of the samples
    batch_size  cells at once

    Raises KeyError for a site that the guide does not have, and ValueError for corrected draws of one that cells share.
    """
    cells = fit.read(cells)
    if site not in fit.guide.sites:
        raise KeyError(f"the guide has no site {site!r}; it has {', '.join(fit.guide.sites) or 'none'}")
    support, local = fit.guide.sites[site].support, fit.guide.sites[site].local
    if corrected and not local:
        raise ValueError(f"corrected=True: {site} is shared by all cells, and cannot be corrected for one cell")
    if corrected:
        return _corrected(fit, cells, samples, site, seed)

    def read(minibatch: Cells) -> Tensor:
        q = onto(support, fit.guide.posteriors(minibatch)[site])
        return _mean(q) if samples is None else q.sample(torch.Size([samples]))

    pieces = each(fit, cells, read, seed, batch_size)
    if not local:
        return next(pieces).cpu().numpy()
    return torch.cat([piece.cpu() for piece in pieces], 0 if samples is None else 1).numpy()


def _corrected(fit: Fitted, cells: Cells, samples: int | None, site: str, seed: int) -> np.ndarray:
    pieces = []
    for minibatch in resampled(Reader(fit, cells), samples or 1, seed):
        values, pool = minibatch.target.joint.values, minibatch.pool
        z = pool.mean(values(pool.u)[site]) if samples is None else values(minibatch.draws)[site]
        pieces.append(z.to(cells.dtype).cpu())
    return torch.cat(pieces, 0 if samples is None else 1).numpy()


def _mean(q: Any) -> Tensor:
    samples = flow_samples(q)
    if samples is None and isinstance(q, dist.TransformedDistribution):  # of a base that is not Gaussian
        samples = q.sample(torch.Size([MOMENT_DRAWS]))
    return q.mean if samples is None else samples.mean(0)
