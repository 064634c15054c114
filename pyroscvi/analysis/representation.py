"""The representation of cells that files and pictures hold, whatever latents a page has."""

import numpy as np
import torch
from anndata import AnnData

from pyroscvi.analysis.latent import latent
from pyroscvi.analysis.probabilities import probabilities
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.reader import Reader
from pyroscvi.program import Fitted

KEY = "X_pyroscvi"  # of obsm


def representation(fit: Fitted, cells: Cells | AnnData, *, corrected: bool = False) -> np.ndarray:
    """Posterior means of z [n, d]. Without z, probabilities of an enumerated site [n, k]; or mean states [n, g]."""
    if "z" in fit.guide.sites:
        return latent(fit, cells, corrected=corrected)
    cells = fit.read(cells)
    if hasattr(fit.model, "states"):
        p = fit.model.states(cells)
        return (p @ torch.arange(p.shape[-1]).to(p)).cpu().numpy()
    sites = list(Reader(fit, cells).first.levels())
    return probabilities(fit, cells, sites[0]).to_numpy() if sites else np.empty((len(cells), 0))
