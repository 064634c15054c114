"""Denoising: the rate at which a gene is expected, rather than the count that happened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyroscvi.analysis.corrected import each_drawn
from pyroscvi.analysis.posterior import Level, codes, expected
from pyroscvi.data.cells import Cells
from pyroscvi.pyro_internals import alone

if TYPE_CHECKING:
    from pyroscvi.fitting.result import Fit

__all__ = ["denoise", "rates"]


@alone
def denoise(
    fit: Fit,
    cells: Any,
    *,
    samples: int = 10,
    library: float | None = None,
    genes: Sequence[str] | None = None,
    corrected: bool = False,
    seed: int = 0,
    batch_size: int = 256,
    **levels: Level,
) -> np.ndarray:
    """Posterior mean of the rate of every gene [n, g]: E[l rho | x], before any extra zeros.

    samples   posterior draws that are averaged
    library   scale each cell to this total: 1 gives shares; None leaves it the size that it has
    genes     names of the genes that are wanted; None is all
    corrected draws of the posterior itself, by importance resampling, in the place of the guide's
    levels    conditions under which the same cells are seen, by name: ``batch="donor1"``, or one name a cell
    """
    pieces = rates(fit, cells, samples, library, genes, corrected, seed, batch_size, **levels)
    return np.concatenate(list(pieces))


def rates(
    fit: Fit,
    cells: Any,
    samples: int = 10,
    library: float | None = None,
    genes: Sequence[str] | None = None,
    corrected: bool = False,
    seed: int = 0,
    batch_size: int = 256,
    **levels: Level,
) -> Iterator[np.ndarray]:
    """What ``denoise`` puts together, a minibatch [b, g] at a time."""
    cells = fit.read(cells)
    told = codes(fit, len(cells), levels)
    wanted = slice(None) if genes is None else _columns(fit, genes)

    def rate(minibatch: Cells, guides: Iterable[Any]) -> np.ndarray:
        here = {name: code[minibatch.index] for name, code in told.items()}
        total: Any = 0.0
        for guide in guides:
            found = expected(fit, minibatch, here, guide)
            mu = _rate(found.counts)
            if library is not None:
                mu = mu * (library / mu.sum(-1, keepdim=True))
            total = total + found.mean(mu)[:, wanted]
        return (total / samples).cpu().numpy()

    return each_drawn(fit, cells, rate, samples, seed, batch_size, corrected)


def _rate(counts: Any) -> Tensor:
    """The mean of the counts where they are not extra zeros [..., n, g]."""
    return counts.mu if hasattr(counts, "mu") else counts.mean


def _columns(fit: Fit, genes: Sequence[str]) -> Tensor:
    place = {name: g for g, name in enumerate(fit.genes)}
    if strange := [gene for gene in genes if gene not in place]:
        raise KeyError(f"the fit knows no gene {strange[0]!r}")
    return torch.tensor([place[gene] for gene in genes])
