"""Decoding: the rates of cells whose states are given, without any counts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyroscvi.analysis.corrected import Given
from pyroscvi.analysis.generate import blank, unknown
from pyroscvi.analysis.posterior import (
    Conditions,
    Intervention,
    Over,
    columns_of,
    counts_of,
    each,
    interventions,
    rates,
)
from pyroscvi.data.cells import Cells
from pyroscvi.inference.elbo import joint
from pyroscvi.program import Fitted, onto
from pyroscvi.pyro_internals import alone


@alone
def decode(
    fit: Fitted, z: ArrayLike | Mapping[str, ArrayLike], *, given: Conditions | None = None,
    average: Over | None = None, size: ArrayLike | None = None, genes: Sequence[str] | None = None,
    samples: int = 10, seed: int = 0, batch_size: int = 256,
) -> np.ndarray:  # fmt: skip
    """Rate of every gene [..., g] of cells with these states z [..., d], without extra zeros.

        path = np.linspace(z[0], z[1], 20)                    # between two cells of fit.latent(cells)
        fit.decode(path, given={"batch": "donor1"}, size=1)

    z           values of the site z, as ``latent`` returns them; or of several sites, ``{"z": ..., "u": ...}``
    given       conditions, as in ``denoise``. A field that is neither given nor averaged over is unknown to the model,
                and a covariate is at its mean
    average     average over several values of a field, as in ``denoise``
    size        sizes of the cells: one, or one for each; None is the geometric mean of training. Under a softmax link
                1 gives shares
    genes       names of the genes to return; None returns all
    samples     posterior samples of the latents that cells share, to average over; one is enough where they share none
    seed        of these samples
    batch_size  cells at once

    Where rates depend on a level that is summed out, levels are weighted by p(k | z). Raises ValueError for a model
    without the site z, or for states of another width.
    """
    states, shape = _states(fit, z)
    n = len(next(iter(states.values())))
    several = interventions(fit, n, given or {}, average)
    sizes = np.asarray(_typical(fit) if size is None else size).reshape(-1)
    if len(sizes) not in (1, n):
        raise ValueError(f"size: give one, or one for each of the {n} states, not {len(sizes)}")
    codes = {name: torch.full((n,), -1) for name in fit.levels}
    cells = fit.read(blank(fit, n, codes, sizes, seed))
    if "l" in fit.guide.sites and "l" not in states:
        states["l"] = cells.library.cpu()
    shared = [name for name, site in fit.guide.sites.items() if not site.local]
    samples, columns = samples if shared else 1, columns_of(fit, genes)

    def rate(minibatch: Cells) -> Tensor:
        own = {name: value[minibatch.index].to(minibatch.device, minibatch.dtype) for name, value in states.items()}
        total: Any = 0.0
        for _ in range(samples):
            q = fit.guide.posteriors(minibatch) if shared else {}
            drawn = {name: onto(fit.guide.sites[name].support, q[name]).sample() for name in shared}
            for values in several:
                mine = {name: value[minibatch.index] for name, value in values.items()}
                with Intervention(minibatch, mine) as conditions:
                    p, _ = joint(fit.model, Given(own, drawn), minibatch)  # type: ignore[arg-type]
                conditions.check()
                counts = counts_of(p, seen=False)
                total = total + counts.mean(rates(counts.counts))[:, columns]
        return (total / (samples * len(several))).cpu()

    rows = torch.cat(list(each(fit, cells, rate, seed, batch_size)))
    return rows.reshape(*shape, -1).numpy()


def _states(fit: Fitted, z: Any) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Values of local sites [n, d], and the shape of the cells."""
    states = {
        name: torch.as_tensor(np.asarray(value)) for name, value in (z if isinstance(z, Mapping) else {"z": z}).items()
    }
    local = [name for name, site in fit.guide.sites.items() if site.local]
    if missing := [name for name in states if name not in local]:
        raise ValueError(
            f"{type(fit.model).__name__} has no site {missing[0]!r} of cells; it has {', '.join(local) or 'none'}"
        )
    widths = {"z": getattr(fit.model, "latent", None)}
    for name, value in states.items():
        if value.dim() < 1 or widths.get(name) not in (None, value.shape[-1]):
            raise ValueError(
                f"states {name} have {widths.get(name)} numbers a cell, not the shape {tuple(value.shape)}"
            )
    (shape, *others) = {value.shape[:-1] for value in states.values()}
    if others:
        raise ValueError("all sites must have the same number of cells")
    return {name: value.reshape(-1, value.shape[-1]) for name, value in states.items()}, tuple(shape)


def _typical(fit: Fitted) -> float:
    """The geometric mean of sizes in training."""
    moments = fit.dims.log_size
    if moments is None or moments.isnan().any():
        raise ValueError(unknown("the sizes of cells", "size=...", "decode"))
    return float(moments[:, 0].mean().exp())
