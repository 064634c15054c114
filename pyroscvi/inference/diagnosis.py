"""A loss that is not a number: which site, which parameter, which cell and which gene it comes from."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyroscvi.data.cells import Cells
from pyroscvi.data.stored import Stored
from pyroscvi.inference.elbo import joint
from pyroscvi.program import Fitted, Guide, Model


class NonFiniteLoss(ValueError):
    """Training stopped before a step that would make parameters NaN; ``fit`` is the last good state."""

    fit: Fitted | None = None


@torch.no_grad()
def explain(model: Model, guide: Guide, cells: Cells, trained: nn.Module) -> str:
    """Which sites of this minibatch and which parameters are not finite, in words."""
    problems = [*_sites(model, guide, cells), *_parameters(trained)]
    return "; ".join(problems) or "the same minibatch gave finite values when it was evaluated again"


def unfit(cells: Cells) -> str:
    """The first value in the data of cells that no model can be fitted to, in words; "" if there is none."""
    for n, g, count in _no_count(cells.counts, -np.inf if cells.real else 0):
        return f"cell {_cell(cells, n)}, gene {_gene(cells, g)} has the count {count}"
    for name, values in {"covariate": cells.covariates, "size factor": cells.size_factor}.items():
        if values is not None and not torch.isfinite(values).all():
            n = int((~torch.isfinite(values)).nonzero()[0, 0])
            return f"cell {_cell(cells, n)} has a {name} that is not finite"
    return ""


def _no_count(counts: Any, least: float) -> Iterator[tuple[int, int, float]]:
    """Row, column and value of the first count that is not finite or below ``least``; those on disk were checked."""
    if isinstance(counts, Tensor):
        wrong = ~(torch.isfinite(counts) & (counts >= least))
        for n, g in wrong.nonzero()[:1].tolist():
            yield n, g, float(counts[n, g])
    elif not isinstance(counts, Stored):
        for k in np.flatnonzero(~(np.isfinite(counts.data) & (counts.data >= least)))[:1]:
            row = int(np.searchsorted(counts.indptr, k, side="right")) - 1
            yield row, int(counts.indices[k]), float(counts.data[k])


def _sites(model: Model, guide: Guide, cells: Cells) -> Iterator[str]:
    p, q = joint(model, guide, cells)
    for whose, sites in (("guide", q), ("model", p)):
        for name, site in sites.items():
            log_p = site["fn"].log_prob(site["value"])
            wrong = ~torch.isfinite(log_p)
            if wrong.any():
                where = _place(site, wrong, cells) if log_p.dim() else ""
                yield f"site {name!r} of the {whose} has log-density {log_p[wrong][0].item()}{where}"


def _place(site: Any, wrong: Tensor, cells: Cells) -> str:
    """The first cell where a site is not finite, and of counts the first such gene."""
    rows = wrong.reshape(-1, wrong.shape[-1]).any(0).expand(len(cells))
    n = int(rows.nonzero()[0])
    place = f" in {int(rows.sum())} of {len(cells)} cells of the minibatch, first in cell {_cell(cells, n)}"
    if not hasattr(site["fn"], "log_pmf"):
        return place
    by_gene = ~torch.isfinite(site["fn"].log_pmf(site["value"]))
    columns = by_gene.reshape(-1, *by_gene.shape[-2:]).any(0).expand(len(cells), -1)[n]
    if not columns.any():
        return place
    g = int(columns.nonzero()[0])
    return f"{place}, gene {_gene(cells, g)} with count {site['value'][n, g].item():g}"


def _parameters(trained: nn.Module) -> Iterator[str]:
    """Parameters that are not finite; else those with such a gradient, unless all have one; and the largest."""
    named = dict(trained.named_parameters())
    spoilt = [name for name, p in named.items() if not torch.isfinite(p).all()]
    steep = [name for name, p in named.items() if p.grad is not None and not torch.isfinite(p.grad).all()]
    if spoilt:
        yield f"not finite themselves: {_several(spoilt)}"
    elif 0 < len(steep) < len(named):
        yield f"gradients are not finite for {_several(steep)}"
    sizes = {name: p.abs().max().item() for name, p in named.items() if name not in spoilt}
    if sizes:
        largest = max(sizes, key=sizes.__getitem__)
        yield f"the largest parameter is {largest}, {sizes[largest]:.3g}"


def _several(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _cell(cells: Cells, n: int) -> str:
    if cells.names is not None:
        return repr(str(cells.names[n]))
    return str(n if cells.index is None else int(cells.index[n]))


def _gene(cells: Cells, g: int) -> str:
    return str(g) if cells.genes is None else repr(cells.genes[g])
