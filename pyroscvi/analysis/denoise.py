"""Denoising: the expected count of every gene in place of the observed one."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from anndata import AnnData

from pyroscvi.analysis.corrected import each_drawn
from pyroscvi.analysis.posterior import Conditions, Over, columns_of, each_expected, interventions, rates
from pyroscvi.data.cells import Cells
from pyroscvi.program import Fitted
from pyroscvi.pyro_internals import alone


@alone
def denoise(
    fit: Fitted, cells: Cells | AnnData, *, given: Conditions | None = None, average: Over | None = None,
    samples: int = 10, library: float | None = None, genes: Sequence[str] | None = None, corrected: bool = False,
    seed: int = 0, batch_size: int = 256,
) -> np.ndarray:  # fmt: skip
    """Posterior mean of the rate of every gene [n, g]: E[l rho | x], without the extra zeros of a zero-inflated model.

    given       see the same cells under other conditions: ``given={"batch": "donor1", "dose": 2.0}``, one value for all
                cells or one for each. Covariates are in their own units
    average     average over several values: ``"batch"`` is every batch, ``{"batch": ["donor1", "donor2"]}`` these two,
                with equal weights. Several fields: every combination
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
    several = interventions(fit, len(cells), given or {}, average)
    columns = columns_of(fit, genes)

    def rate(minibatch: Cells, guides: Iterable[Any]) -> np.ndarray:
        of_minibatch = [{name: value[minibatch.index] for name, value in values.items()} for values in several]
        total: Any = 0.0
        for guide in guides:
            for counts in each_expected(fit, minibatch, of_minibatch, guide):
                total = total + counts.mean(rates(counts.counts, library))[:, columns]
        return (total / (samples * len(several))).cpu().numpy()

    return np.concatenate(list(each_drawn(fit, cells, rate, samples, seed, batch_size, corrected)))
