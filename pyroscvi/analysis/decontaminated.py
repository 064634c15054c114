"""The counts of cells without those of the liquid or the cells around them."""

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from pyroscvi.analysis.posterior import each
from pyroscvi.data.cells import Cells
from pyroscvi.inference.elbo import joint
from pyroscvi.program import Fitted
from pyroscvi.pyro_internals import alone


@alone
def decontaminated(
    fit: Fitted, cells: Cells | AnnData, *, samples: int = 10, seed: int = 0, batch_size: int = 256
) -> np.ndarray:
    """Expected counts of the cells themselves [n, g]: each count, times the posterior mean of the cell's share in it.

    samples     posterior samples to average over
    seed        of the samples
    batch_size  cells at once

    Raises ValueError where the model has no foreign counts.
    """
    model = fit.model
    if not hasattr(model, "sources") or "c" not in fit.guide.sites:
        raise ValueError(f"{model!r} has no foreign counts: fit the page Ambient(), or Spillover() in tissue")
    cells = fit.read(cells)

    def own(minibatch: Cells) -> Tensor:
        total: Tensor | float = 0.0
        for _ in range(samples):
            _, q = joint(model, fit.guide, minibatch)
            eta = model.decoder(model.prior.state(q["z"]["value"]), model.condition(minibatch))
            own, foreign = model.sources(eta["rho"], q["c"]["value"], minibatch)
            total = total + own / (own + foreign)
        return (minibatch.x * total / samples).cpu()

    return torch.cat(list(each(fit, cells, own, seed, batch_size))).numpy()
