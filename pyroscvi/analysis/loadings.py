"""Loadings: what a step along a latent dimension does to every gene, where the decoder is linear."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from pyroscvi.analysis.generate import blank
from pyroscvi.analysis.latent import latent
from pyroscvi.pyro_internals import alone

if TYPE_CHECKING:
    from pyroscvi.fitting.result import Fit

__all__ = ["loadings"]


@torch.no_grad()
@alone
def loadings(fit: Fit) -> pd.DataFrame:
    """Change of every gene's linear predictor by a unit step of every latent dimension, genes x latents.

    Under a softmax link that is a log share, up to what all genes have in common. Where loadings have a prior, their
    posterior means. ValueError where it depends on the place from which the step is taken, so that there is no table.
    """
    W = _weights(fit)
    return pd.DataFrame(W.cpu().numpy(), index=list(fit.genes), columns=[f"z{j}" for j in range(W.shape[1])])


def _weights(fit: Fit) -> Tensor:
    model = fit.model
    W = getattr(model, "W", None)
    if isinstance(W, Tensor):  # a page that writes its map out
        return W
    if not hasattr(model, "decoder"):
        raise ValueError(f"{type(model).__name__} has no decoder to read loadings from")
    if "W" in fit.guide.sites:
        of_nothing = blank(fit, 1, {}, None, 0)
        return torch.as_tensor(latent(fit, of_nothing, site="W")).unflatten(-1, (-1, model.latent))
    steps = torch.eye(model.latent).to(next(model.parameters()))
    d = steps.new_zeros(1, getattr(getattr(model, "condition", None), "width", 0))
    was = model.training
    model.eval()
    origin, there, twice = (model.decoder(z, d)["rho"] for z in (torch.zeros_like(steps), steps, 2 * steps))
    model.train(was)
    if not torch.allclose(twice - there, there - origin, rtol=1e-3, atol=1e-4):
        raise ValueError(f"{model.decoder!r} is not linear, so it has no loadings: use decoder=Linear(), as LDVAE does")
    return (there - origin).T
