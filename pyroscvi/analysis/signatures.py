"""Signatures of cell types: the share of every gene in the cells of a type."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pyroscvi.advice import field
from pyroscvi.analysis.denoise import denoise
from pyroscvi.analysis.posterior import Level
from pyroscvi.data.cells import Cells
from pyroscvi.program import Fitted


def signatures(cells: Cells, fit: Fitted | None = None, *, given: Mapping[str, Level] | None = None) -> pd.DataFrame:
    """The share of every gene in the cells of each type, types x genes; rows add up to one.

    cells  annotated cells; those without a label are left out
    fit    a fit to them: the mean of denoised shares, in place of counts
    given  conditions of the denoised shares, such as one batch for all: ``given={"batch": "a"}``

    Without a fit, one count with the average profile is added to each type, so that no share is 0. A type without cells
    has no row. Raises ValueError where no cell has a label.
    """
    if cells.label is None or not bool((cells.label >= 0).any()):
        raise ValueError(f"signatures need cells with labels: read them, {field('label')}")
    label = cells.label.cpu().numpy()
    x = cells.x.cpu().double().numpy() if fit is None else denoise(fit, cells, library=1.0, given=given)
    average = cells.dims.average().double().numpy()
    present = [code for code in range(len(cells.levels["label"])) if (label == code).any()]
    total = np.stack([x[label == code].sum(0) + (average if fit is None else 0) for code in present])
    names = [cells.levels["label"][code] for code in present]
    return pd.DataFrame(total / total.sum(1, keepdims=True), names, list(cells.genes or range(cells.counts.shape[1])))
