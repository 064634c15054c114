"""Domains of a tissue under the page ``Domains``, from neighbours on all sides."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from pyroscvi.advice import either
from pyroscvi.analysis.probabilities import as_frame
from pyroscvi.data.cells import Cells
from pyroscvi.models import Domains
from pyroscvi.program import Fitted
from pyroscvi.pyro_internals import alone

CELLS = 1024  # at once


@alone
@torch.no_grad()
def domains(fit: Fitted, cells: Cells | AnnData) -> pd.DataFrame:
    """The probability of every domain for every cell [n, domains]; rows add up to one.

    fit    a fit of the page ``Domains``
    cells  with predecessors: all cells of their sections, or those that a split held out of them

    In the density of the tissue a cell depends on the cells before it. Here the cells after it count too:
    p(t_n | x) is in proportion to w_t p(x_n | t) prod_m (1 + c_nm (p(x_m | t) / p(x_m) - 1)), over both.
    """
    model = fit.model
    if not isinstance(model, Domains):
        raise ValueError(f"domains are those of the page Domains(), and this fit has {model!r}")
    cells = fit.read(cells)
    if cells.before is None:
        remedy = either("Fields(spatial='spatial', predecessors=20)", "--spatial spatial --predecessors 20")
        raise ValueError(f"these cells have no neighbours that a domain could be told from: read with {remedy}")
    everyone = cells.with_halo
    ratio = torch.cat([model.log_ratio(some) for some in everyone.minibatches(CELLS)])
    log_p = model.w.log_softmax(-1) + ratio
    if model.coupling.strength:
        places: Any = everyone.places
        near = (cells.before + cells.before.T).tocoo()
        target, source = (torch.as_tensor(ends.astype(np.int64), device=ratio.device) for ends in near.coords)
        same = model.coupling.same((places[target] - places[source]).norm(dim=-1))
        log_p = log_p.index_add(0, target, (same.unsqueeze(-1) * (ratio.exp()[source] - 1)).log1p())
    return as_frame(log_p[: len(cells)], cells, "t")
