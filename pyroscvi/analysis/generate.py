"""Generation: counts drawn from the observation model, for cells that there are and for cells that there are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from pyro import poutine
from torch import Tensor

from pyroscvi.analysis.corrected import each_drawn
from pyroscvi.analysis.posterior import Level, Told, codes, expected
from pyroscvi.data.cells import Cells
from pyroscvi.program import onto
from pyroscvi.pyro_internals import alone

if TYPE_CHECKING:
    from pyroscvi.fitting.result import Fit

__all__ = ["blank", "generate"]


@alone
def generate(
    fit: Fit,
    cells: Any = None,
    *,
    n: int | None = None,
    samples: int | None = None,
    size: ArrayLike | None = None,
    corrected: bool = False,
    seed: int = 0,
    batch_size: int = 256,
    **levels: Level,
) -> np.ndarray:
    """Counts [n, g], or [samples, n, g]: of these cells once more, or of ``n`` new ones.

    cells      given these cells: from the posterior predictive distribution, each with its own latents
    n          without cells: from the prior. A condition that is not named is as frequent as in training, a continuous
               covariate is at its mean, and the size of a cell is drawn from those of its batch, unless given
    size       sizes of new cells, one or [n]
    corrected  latents of these cells from the posterior itself, by importance resampling, rather than from the guide
    levels     conditions by name, ``perturbation="control"``, or one name a cell

    KeyError for a field or a level that training never saw; ValueError for one that the model does not look at.
    """
    if (cells is None) == (n is None):
        raise ValueError("generate: give either cells, or n, the number of new ones")
    if cells is None:
        assert n is not None
        told = codes(fit, n, levels)
        cells = fit.read(blank(fit, n, told, size, seed))
        draw, corrected = _from_the_prior(fit, levels), False
    else:
        cells = fit.read(cells)
        told = codes(fit, len(cells), levels)

        def draw(minibatch: Cells, guide: Any) -> Tensor:
            here = {name: code[minibatch.index] for name, code in told.items()}
            return expected(fit, minibatch, here, guide).sample()

    def several(minibatch: Cells, guides: Iterable[Any]) -> Tensor:
        return torch.stack([draw(minibatch, guide) for guide in guides]).cpu()

    pieces = each_drawn(fit, cells, several, samples or 1, seed, batch_size, corrected)
    drawn = torch.cat(list(pieces), 1).numpy()
    return drawn[0] if samples is None else drawn


def _from_the_prior(fit: Fit, levels: Mapping[str, Level]) -> Any:
    """Draws of new cells; latents that cells share come from their posterior, for they have been learnt."""
    shared = [name for name, site in fit.guide.sites.items() if not site.local]

    def draw(blank: Cells, _: Any) -> Tensor:
        q = fit.guide.posteriors(blank) if shared else {}
        learnt = {name: onto(fit.guide.sites[name].support, q[name]).sample() for name in shared}
        model = poutine.condition(poutine.uncondition(fit.model), data=learnt)
        with Told(blank, {name: blank.categories[name] for name in levels}) as told:
            sites: Any = poutine.trace(model).get_trace(blank).nodes
        told.check()
        return sites["x"]["value"]

    return draw


def blank(fit: Fit, n: int, told: Mapping[str, Tensor], size: ArrayLike | None, seed: int) -> Cells:
    """New cells that hold nothing but conditions and sizes: their counts are the average profile, for their total."""
    generator = torch.Generator().manual_seed(seed)
    categories = {}
    for field, names in fit.levels.items():
        counted = fit.record.get("levels", {}).get(field, {})
        often = torch.tensor([float(counted.get(name, 0)) for name in names])
        weights = often if often.sum() > 0 else torch.ones(len(names))
        categories[field] = torch.multinomial(weights, n, replacement=True, generator=generator)
    categories |= told
    if size is None:
        moments = torch.tensor([[0.0, 0.0]]) if fit.dims.log_size is None else fit.dims.log_size
        b = categories["batch"] if "batch" in categories and len(moments) > 1 else torch.zeros(n, dtype=torch.long)
        sizes = (moments[b, 0] + moments[b, 1].sqrt() * torch.randn(n, generator=generator)).exp()
    else:
        sizes = torch.as_tensor(np.broadcast_to(np.asarray(size, dtype=np.float32), (n,)).copy())
    genes = fit.dims.genes
    profile = torch.full((genes,), 1 / genes) if fit.dims.profile is None else fit.dims.profile
    covariates = torch.zeros(n, fit.dims.covariates) if fit.dims.covariates else None
    return Cells(sizes.unsqueeze(-1) * profile, categories, covariates, size_factor=sizes, levels=fit.levels)
