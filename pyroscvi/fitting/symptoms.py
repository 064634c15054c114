"""Symptoms of a fit that went wrong, in words that point to the page of the documentation with the remedies."""

import numpy as np

from pyroscvi.advice import troubleshooting
from pyroscvi.fitting.result import Fit

ACTIVE = 0.01  # variance of the posterior mean of a dimension, from which the dimension is used [Burda et al., 2016]


def symptoms(fit: Fit, z: np.ndarray) -> list[str]:
    """What is wrong with a fit, one sentence each; nothing if nothing is.

    z   posterior means of the latents of cells [n, d]
    """
    sentences = []
    if fit.converged is False:
        sentences.append("the held-out bound still rose when training ended: train for more epochs. "
                     + troubleshooting("it has not converged"))  # fmt: skip
    if z.shape[1] and "z" in fit.guide.sites and not (z.var(0) > ACTIVE).any():
        sentences.append("no dimension of the latent space is used: the states of all cells are alike. "
                     + troubleshooting("the latent space has collapsed"))  # fmt: skip
    return sentences
