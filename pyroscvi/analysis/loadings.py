"""Loadings: the effect of every latent dimension on every gene, where the decoder is linear."""

import pandas as pd
import torch
from torch import Tensor

from pyroscvi.analysis.generate import blank
from pyroscvi.analysis.latent import latent
from pyroscvi.program import Fitted
from pyroscvi.pyro_internals import alone


@torch.no_grad()
@alone
def loadings(fit: Fitted) -> pd.DataFrame:
    """Change of each gene's linear predictor per unit step of each latent dimension, genes x latents, or components.

    Under a softmax link the predictor is a log share, up to a constant of all genes. Loadings with a prior are returned
    as posterior means. Raises ValueError for a decoder that is not linear, where the change depends on z.
    """
    W = _weights(fit)
    letter = "z" if fit.guide.sites else "k"
    names = [f"{letter}{j}" for j in range(W.shape[1])]
    sets = getattr(getattr(getattr(fit.model, "decoder", None), "factors", None), "names", ())
    return pd.DataFrame(W.cpu().numpy(), index=list(fit.genes), columns=[*sets, *names[len(sets) :]])


def _weights(fit: Fitted) -> Tensor:
    model = fit.model
    W = getattr(model, "W", None)
    if isinstance(W, Tensor):  # a page that writes its map out
        return W
    if not hasattr(model, "decoder"):
        raise ValueError(f"{type(model).__name__} has no decoder to read loadings from")
    if "W" in fit.guide.sites:
        any_cell = blank(fit, 1, {name: torch.zeros(1, dtype=torch.long) for name in fit.levels}, 1.0, 0)
        W = torch.as_tensor(latent(fit, any_cell, site="W")).unflatten(-1, (-1, model.width))
        return W if model.decoder.mask is None else W * model.decoder.mask.cpu()
    steps = torch.eye(model.width).to(next(model.parameters()))
    d = steps.new_zeros(1, getattr(getattr(model, "condition", None), "width", 0))
    was = model.training
    model.eval()
    origin, one, two = (model.decoder(z, d)["rho"] for z in (torch.zeros_like(steps), steps, 2 * steps))
    model.train(was)
    if not torch.allclose(two - one, one - origin, rtol=1e-3, atol=1e-4):
        raise ValueError(f"{model.decoder!r} is not linear, so it has no loadings: use decoder=Linear(), as LDVAE does")
    return (one - origin).T
