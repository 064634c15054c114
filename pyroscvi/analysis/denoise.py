"""Denoising: the expected count of every gene in place of the observed one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from pyroscvi.analysis.corrected import each_drawn
from pyroscvi.analysis.posterior import Level, codes, expected
from pyroscvi.data.cells import Cells
from pyroscvi.program import Fitted
from pyroscvi.pyro_internals import alone


@alone
def denoise(
    fit: Fitted, cells: Cells | AnnData, *, given: Mapping[str, Level] | None = None, samples: int = 10,
    library: float | None = None, genes: Sequence[str] | None = None, corrected: bool = False, seed: int = 0,
    batch_size: int = 256,
) -> np.ndarray:  # fmt: skip
    """Posterior mean of the rate of every gene [n, g]: E[l rho | x], without the extra zeros of a zero-inflated model.

    given       see the same cells under other conditions: ``given={"batch": "donor1"}``, or one level for each cell
    samples     posterior samples to average over
    library     scale the rates of each cell to this sum: 1 gives shares; None keeps the size of the cell
    genes       names of the genes to return; None returns all
    corrected   sample the exact posterior by importance resampling, not the guide
    seed        of the samples
    batch_size  cells at once

    Raises KeyError for a gene, a field or a level that training did not have, and ValueError for a field that the model
    does not read.
    """
    cells = fit.read(cells)
    values = codes(fit, len(cells), given or {})
    columns = slice(None) if genes is None else _columns(fit, genes)

    def rate(minibatch: Cells, guides: Iterable[Any]) -> np.ndarray:
        of_minibatch = {name: code[minibatch.index] for name, code in values.items()}
        total: Any = 0.0
        for guide in guides:
            counts = expected(fit, minibatch, of_minibatch, guide)
            x = counts.counts
            mu = x.mu if hasattr(x, "mu") else x.mean  # without extra zeros [..., n, g]
            if library is not None:
                mu = mu * (library / mu.sum(-1, keepdim=True))
            total = total + counts.mean(mu)[:, columns]
        return (total / samples).cpu().numpy()

    return np.concatenate(list(each_drawn(fit, cells, rate, samples, seed, batch_size, corrected)))


def _columns(fit: Fitted, genes: Sequence[str]) -> Tensor:
    place = {name: g for g, name in enumerate(fit.genes)}
    if unknown := [gene for gene in genes if gene not in place]:
        raise KeyError(f"the fit knows no gene {unknown[0]!r}")
    return torch.tensor([place[gene] for gene in genes])
