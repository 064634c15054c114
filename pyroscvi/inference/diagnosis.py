"""A loss that is not a number: which site, which parameter, which cell and which gene it comes from."""

from typing import Any

import torch
from torch import Tensor, nn

from pyroscvi.data.cells import Cells
from pyroscvi.inference.elbo import joint
from pyroscvi.program import Guide, Model

__all__ = ["NonFiniteLoss", "explain"]


class NonFiniteLoss(ValueError):
    """Training stopped before the step that would have spoilt the parameters; ``fit`` holds the last good state."""

    fit: Any = None


def explain(model: Model, guide: Guide, cells: Cells, trained: nn.Module, loss: float, epoch: int, step: int) -> str:
    """One message that names what is not finite in this minibatch."""
    found = [*_sites(model, guide, cells), *_parameters(trained)] or ["it did not happen again when looked into"]
    where = f"at epoch {epoch + 1}, minibatch {step + 1}"
    what = (
        f"the loss became {loss} {where}"
        if not torch.isfinite(torch.tensor(loss))
        else f"a gradient became infinite {where}"
    )
    return (
        f"{what}: {'; '.join(found)}. No parameter was changed by it: the last good state is in the error's .fit. "
        "Look at the counts of that cell, or lower lr or clip."
    )


def _sites(model: Model, guide: Guide, cells: Cells) -> list[str]:
    found = []
    with torch.no_grad():
        p, q = joint(model, guide, cells)
        for whose, sites in (("guide", q), ("model", p)):
            for name, site in sites.items():
                log_p = site["fn"].log_prob(site["value"])
                if not torch.isfinite(log_p).all():
                    found.append(
                        f"site {name!r} of the {whose} has log-density {_first(log_p)}{_place(site, log_p, cells)}"
                    )
    return found


def _first(t: Tensor) -> float:
    return t[~torch.isfinite(t)][0].item()


def _place(site: dict, log_p: Tensor, cells: Cells) -> str:
    """The first cell of a site that is not finite, and at counts its first such gene."""
    if not site["cond_indep_stack"]:
        return ""
    bad = ~torch.isfinite(log_p).reshape(-1, log_p.shape[-1]).all(0)
    bad = bad.expand(len(cells))
    n = int(bad.nonzero()[0])
    row = n if cells.index is None else int(cells.index[n])
    place = f" in {int(bad.sum())} of {len(cells)} cells, first " + (
        f"{cells.names[n]!r}" if cells.names is not None else f"cell {row}"
    )
    if not hasattr(site["fn"], "log_pmf"):
        return place
    per_gene = site["fn"].log_pmf(site["value"])
    wrong = ~torch.isfinite(per_gene).reshape(-1, *per_gene.shape[-2:]).all(0)
    wrong = wrong.expand(len(cells), wrong.shape[-1])[n]
    if not wrong.any():
        return place
    g = int(wrong.nonzero()[0])
    gene = f"{cells.genes[g]!r}" if cells.genes is not None else str(g)
    return f"{place}, gene {gene} with count {site['value'][n, g].item():g}"


def _parameters(trained: nn.Module) -> list[str]:
    found = []
    for name, parameter in trained.named_parameters():
        if not torch.isfinite(parameter).all():
            found.append(f"parameter {name!r} is not finite")
        elif parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            found.append(f"the gradient of parameter {name!r} is not finite")
    return found[:5]
