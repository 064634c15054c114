"""Surface proteins of cells: denoised, and predicted for cells in which they were not measured."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from pyroscvi.analysis.corrected import each_drawn
from pyroscvi.analysis.posterior import Level, codes, expected
from pyroscvi.data.cells import Cells
from pyroscvi.program import Fitted
from pyroscvi.pyro_internals import alone


class ProteinTables(NamedTuple):
    """Three tables, cells x proteins.

    foreground   expected counts without background: probability of foreground times its mean
    probability  probability that the protein is on the cell (foreground)
    expected     expected counts, background included
    """

    foreground: pd.DataFrame
    probability: pd.DataFrame
    expected: pd.DataFrame


@alone
def proteins(
    fit: Fitted, cells: Cells | AnnData, *, given: Mapping[str, Level] | None = None, samples: int = 10,
    corrected: bool = False, seed: int = 0, batch_size: int = 256,
) -> ProteinTables:  # fmt: skip
    """Foreground counts, probabilities of foreground and expected counts of the surface proteins of every cell.

    Where a protein was measured, its count decides, together with the state of the cell; elsewhere the state alone.

    given       see the same cells under other conditions. Cells of a batch without proteins need a batch that has some,
                ``given={"batch": "cite"}``: training had no background of their own batch
    samples     posterior samples to average over
    corrected   sample the exact posterior by importance resampling, not the guide
    seed        of the samples
    batch_size  cells at once

    Raises ValueError where the model has no proteins, or does not read a field that is given.
    """
    if "proteins" not in fit.model.observes:
        raise ValueError(f"{fit.model!r} has no proteins: fit the page Proteins() to cells read with their proteins")
    cells = fit.read(cells)
    values = codes(fit, len(cells), given or {})

    def tables(minibatch: Cells, guides: Iterable[Any]) -> np.ndarray:
        of_minibatch = {name: code[minibatch.index] for name, code in values.items()}
        total: Any = 0.0
        for guide in guides:
            drawn = expected(fit, minibatch, of_minibatch, guide, site="proteins")
            counts = drawn.counts
            three = counts.probability * counts.foreground.mu, counts.probability, counts.mean
            total = total + torch.stack([drawn.mean(one) for one in three])
        return (total / samples).cpu().numpy()

    pieces = list(each_drawn(fit, cells, tables, samples, seed, batch_size, corrected))
    return ProteinTables(*(pd.DataFrame(one, cells.names, cells.protein_names) for one in np.concatenate(pieces, 1)))
