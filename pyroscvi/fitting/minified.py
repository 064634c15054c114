"""Fits without counts: posterior moments, sizes and conditions of cells, in place of what they were read from.

small = fit.minified(cells)
small.save("fit.safetensors")                    # and later, without the data:
small = ps.load("fit.safetensors")
small.latent(small.cells), small.denoise(small.cells, given={"batch": "donor1"}), small.generate(small.cells)
"""

import copy
from dataclasses import replace

import torch
from anndata import AnnData

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.proposals import moments
from pyroscvi.fitting.result import Fit
from pyroscvi.guides._remembered import Remembered
from pyroscvi.part import Part
from pyroscvi.pyro_internals import alone


@torch.no_grad()
@alone
def minified(fit: Fit, cells: Cells | AnnData, batch_size: int = 1024) -> Fit:
    """This fit with the posterior moments of these cells, in place of its encoder and of their counts.

    It gives latents, rates, new counts and pictures of its ``.cells``. It has no evidence and reads no other cells. If
    the guide was not Gaussian, its posteriors become the Gaussians with the same moments.

    Raises ValueError for a model without latents of cells, or one whose prior is made of the guide.
    """
    cells = fit.read(cells)
    if not any(site.local for site in fit.guide.sites.values()):
        raise ValueError(f"{type(fit.model).__name__} has no latents of cells, so nothing is left without their counts")
    for part in fit.model.modules():
        if isinstance(part, Part) and type(part).follow is not Part.follow:
            raise ValueError(f"{part!r} is made of the guide, which a minified fit no longer has")
    guide = Remembered(n=len(cells)).sized(fit.model, replace(cells, graph=None).take(torch.arange(min(2, len(cells)))))
    start = 0
    for minibatch in cells.minibatches(batch_size, hops=fit.hops):
        rows = slice(start, start := start + len(minibatch))
        for name, (mean, factor) in moments(fit.guide, minibatch).items():
            at = rows if fit.guide.sites[name].local else slice(None)
            getattr(guide, f"mean_{name}")[at] = mean.cpu()
            getattr(guide, f"factor_{name}")[at] = factor.cpu()
    values_of = {"size": cells.library[:, 0], "size_factor": cells.size_factor, "covariates": cells.covariates}
    values_of |= {f"code_{field}": codes for field, codes in cells.categories.items()}
    for name, values in values_of.items():
        if values is not None:
            getattr(guide, name).copy_(values)
    names = None if cells.names is None else [str(name) for name in cells.names]
    guide = guide.to(cells.device, cells.dtype).eval()
    return replace(fit, model=copy.deepcopy(fit.model), guide=guide, record=fit.record | {"cell_names": names})
