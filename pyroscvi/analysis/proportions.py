"""The proportions of the topics in cells, and which types are present."""

from typing import Any

import pandas as pd
import torch
from anndata import AnnData

from pyroscvi.analysis.latent import latent
from pyroscvi.data.cells import Cells
from pyroscvi.program import Fitted
from pyroscvi.pyro_internals import alone


@alone
def proportions(
    fit: Fitted, cells: Cells | AnnData, samples: int = 100, *, corrected: bool = False, seed: int = 0
) -> pd.DataFrame:
    """Posterior mean of the proportions of topics or types in every cell, cells x topics; rows add up to one.

    samples    posterior samples to average over
    corrected  sample the exact posterior by importance resampling, not the guide

    Raises ValueError where the state of a cell is not a row of proportions.
    """
    prior = getattr(fit.model, "prior", None)
    if not getattr(prior, "proportions", False):
        raise ValueError(
            f"under {prior!r} the state of a cell is not a row of proportions: use a prior such as Dirichlet()"
        )
    cells = fit.read(cells)
    draws = latent(fit, cells, samples, corrected=corrected, seed=seed)
    mean = sum(fit.model.prior.state(torch.as_tensor(z)) for z in draws) / samples
    return _table(fit, cells, mean)


@alone
def presence(
    fit: Fitted, cells: Cells | AnnData, samples: int = 100, *, corrected: bool = False, seed: int = 0
) -> pd.DataFrame:
    """Probability that each type is present in every cell or spot, cells x types; arguments as in ``proportions``.

    Raises ValueError where the prior has no types that are absent: use ``Sparse()``.
    """
    prior: Any = getattr(fit.model, "prior", None)
    if not hasattr(prior, "presence"):
        raise ValueError(f"under {prior!r} no type is absent: use prior=Sparse(), as Deconvolution() does")
    cells = fit.read(cells)
    draws = latent(fit, cells, samples, corrected=corrected, seed=seed)
    with torch.no_grad():
        mean = prior.presence(torch.as_tensor(draws).to(prior.loc)).mean(0).cpu()
    return _table(fit, cells, mean)


def _table(fit: Fitted, cells: Cells, mean: torch.Tensor) -> pd.DataFrame:
    """These numbers [n, topics] with the names of the types that the page knows, or "topic0" and so on."""
    names = getattr(fit.model, "types", ()) or [f"topic{k}" for k in range(mean.shape[-1])]
    return pd.DataFrame(mean.numpy(), cells.names, list(names))
