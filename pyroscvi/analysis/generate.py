"""Generation: counts drawn from the observation model, of given cells or of new ones."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import ArrayLike
from pyro import poutine
from torch import Tensor

from pyroscvi.analysis.corrected import each_drawn
from pyroscvi.analysis.posterior import Conditions, Intervention, expected, interventions
from pyroscvi.data.cells import Cells
from pyroscvi.program import Fitted, onto
from pyroscvi.pyro_internals import alone


@alone
def generate(
    fit: Fitted, cells: Cells | AnnData | None = None, *, n: int | None = None,
    given: Conditions | None = None, samples: int | None = None, size: ArrayLike | None = None,
    corrected: bool = False, seed: int = 0, batch_size: int = 256,
) -> np.ndarray:  # fmt: skip
    """Draw counts [n, g], or [samples, n, g], of given cells or of ``n`` new ones.

    cells       draw from the posterior predictive distribution of these cells: each keeps its own latents
    n           without cells: the number of new cells, drawn from the prior. A categorical field that is not ``given``
                is drawn with the frequencies of training, a covariate is at its mean, and the size of a cell is drawn
                from those of its batch
    given       values of fields and covariates, one for all cells or one for each: ``given={"dose": 2.0}``
    samples     number of draws; None is one draw, without the first axis
    size        sizes of new cells: one, or [n]
    corrected   draw the latents of ``cells`` from the exact posterior by importance resampling, not from the guide
    seed        of the draws
    batch_size  cells at once

    Raises KeyError for a field or a level that training did not have, and ValueError for a field that the model does
    not read, or where ``n`` new cells need sizes, frequencies or means that the fit does not know.
    """
    if (cells is None) == (n is None):
        raise ValueError("generate: give either cells, or n, the number of new ones")
    given = given or {}
    if cells is None:
        assert n is not None
        (values,) = interventions(fit, n, given)
        cells = fit.read(blank(fit, n, values, size, seed))
        draw, corrected = _from_the_prior(fit, values), False
    else:
        if size is not None:
            raise ValueError("generate: size= is for new cells (n=); these cells keep the sizes that they have")
        cells = fit.read(cells)
        (values,) = interventions(fit, len(cells), given)

        def draw(minibatch: Cells, guide: Any) -> Tensor:
            of_minibatch = {name: code[minibatch.index] for name, code in values.items()}
            return expected(fit, minibatch, of_minibatch, guide).sample()

    def stacked(minibatch: Cells, guides: Iterable[Any]) -> Tensor:
        return torch.stack([draw(minibatch, guide) for guide in guides]).cpu()

    pieces = each_drawn(fit, cells, stacked, samples or 1, seed, batch_size, corrected)
    counts = torch.cat(list(pieces), 1).numpy()
    return counts[0] if samples is None else counts


def _from_the_prior(fit: Fitted, given: Mapping[str, Tensor]) -> Callable[[Cells, Any], Tensor]:
    """Draws counts of new cells from the prior; latents that cells share come from their posterior."""
    shared = [name for name, site in fit.guide.sites.items() if not site.local]

    def draw(cells: Cells, _: Any) -> Tensor:
        q = fit.guide.posteriors(cells) if shared else {}
        latents = {name: onto(fit.guide.sites[name].support, q[name]).sample() for name in shared}
        model = poutine.condition(poutine.uncondition(fit.model), data=latents)
        with Intervention(cells, {name: value[cells.index] for name, value in given.items()}) as conditions:
            sites: Any = poutine.trace(model).get_trace(cells).nodes
        conditions.check()
        return sites["x"]["value"]

    return draw


def blank(fit: Fitted, n: int, given: Mapping[str, Tensor], size: ArrayLike | None, seed: int) -> Cells:
    """New cells without counts of their own: each has the average profile, scaled to its size.

    given   codes [n] of categorical fields, and values [n] of covariates; other fields are drawn with the frequencies
            of training, and other covariates are at their means

    Raises ValueError for sizes, frequencies and means of covariates that the fit does not know.
    """
    generator = torch.Generator().manual_seed(seed)
    codes = {field: values for field, values in given.items() if not values.is_floating_point()}
    categories = {field: _drawn(fit, field, n, generator) for field in fit.levels if field not in codes} | codes
    if size is None:
        batch = categories.get("batch", torch.zeros(n, dtype=torch.long))
        sizes = _sizes(fit, batch, generator)
    else:
        sizes = torch.as_tensor(np.broadcast_to(np.asarray(size, dtype=np.float32), (n,)).copy())
    means = fit.record.get("covariates", [0.0] * fit.dims.covariates)  # fields standardise covariates to a mean of 0
    if fit.dims.covariates and means is None:
        raise ValueError(unknown("the means of covariates", "cells in place of n"))
    covariates = torch.tensor(means).expand(n, -1).clone() if fit.dims.covariates else None
    for i, name in enumerate(fit.covariates):
        if covariates is not None and name in given and given[name].is_floating_point():
            covariates[:, i] = given[name]
    ordered = {field: categories[field] for field in fit.levels}
    return Cells(sizes.unsqueeze(-1) * fit.dims.average(), ordered, covariates, size_factor=sizes, levels=fit.levels)


def _drawn(fit: Fitted, field: str, n: int, generator: torch.Generator) -> Tensor:
    """Codes [n] of a field, as frequent as in training; equally frequent if training had no level of any cell."""
    if len(fit.levels[field]) == 1:
        return torch.zeros(n, dtype=torch.long)
    counted = fit.record.get("levels", {}).get(field)
    if counted is None:
        raise ValueError(unknown(f"how frequent the levels of {field!r} are", f"given={{{field!r}: ...}}"))
    counts = torch.tensor([float(counted.get(name, 0)) for name in fit.levels[field]])
    weights = counts if counts.sum() > 0 else torch.ones_like(counts)
    return torch.multinomial(weights, n, replacement=True, generator=generator)


def _sizes(fit: Fitted, batch: Tensor, generator: torch.Generator) -> Tensor:
    """Sizes [n] of cells of these batches, log-normal with the moments that training had."""
    moments = fit.dims.log_size
    if moments is None or moments.isnan().any():
        raise ValueError(unknown("the sizes of cells", "size=..."))
    row = batch if len(moments) > 1 else torch.zeros_like(batch)
    noise = torch.randn(len(batch), generator=generator)
    return (moments[row, 0] + moments[row, 1].sqrt() * noise).exp()


def unknown(what: str, give: str, call: str = "generate") -> str:
    """The message for something that a fit does not know, and that its user can give."""
    return f"{call}: this fit does not know {what}, because it was made without the cells it was fitted to: give {give}"
