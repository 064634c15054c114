"""A fit with levels that it has not seen: new weights for them alone, and all other weights as they are.

This is architecture surgery [Lotfollahi et al., 2022, Nat Biotechnol 40, 121-130]: a new batch becomes a level of its
own. Its columns of the design row, and its rows of tables, start at the mean of the known levels and are trained on the
new cells. Cells of known levels keep their states and rates exactly.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor, nn

from pyroscvi.data.cells import Cells, Dims
from pyroscvi.data.columns import codes, column
from pyroscvi.data.fields import Missing
from pyroscvi.fitting.declarations import declaration, declared
from pyroscvi.fitting.result import Fit
from pyroscvi.inference.loss import Loss
from pyroscvi.inference.progress import counted
from pyroscvi.inference.seeds import seeded
from pyroscvi.part import Part, hops_of
from pyroscvi.pyro_internals import alone


@alone
def extended(
    fitted: Fit, adata: AnnData, field: str = "batch", *, missing: Missing = "error", epochs: int = 50,
    lr: float = 1e-2, batch_size: int = 128, seed: int = 0, progress: bool = True,
) -> Fit:  # fmt: skip
    """The fit with a level of its own for each value of a column of these cells that training did not have.

    field     the field whose column has new levels: "batch", or a name among ``categories``
    missing   as in ``Fields.read``
    epochs, lr, batch_size, seed, progress   of the new weights, which alone are trained

    Raises ValueError where there is no new level, or the model does not depend on the field.
    """
    if fitted.fields is None:
        raise ValueError("this fit was made without an AnnData and has no fields to read new cells with")
    known = fitted.levels.get(field, ())
    name = getattr(fitted.fields, field, None) or field
    values = codes(column(adata.obs, name, field), field, None, missing=True)[1]
    new = tuple(level for level in values if level not in known)
    if not known or not new:
        raise ValueError(f"these cells have no level of {field!r} that training did not have: fit.read reads them")
    fields = replace(fitted.fields, levels={**(fitted.fields.levels or {}), field: (*known, *new)})
    labels: dict[str, Any] = {} if field == "label" else {"label": None, "belief": None}
    cells = replace(fields, **labels).read(adata, missing=missing)
    dims = _dims(fitted.dims, cells, field)
    with seeded(seed):
        model, guide = (declared(declaration(part), _parts(part)) for part in (fitted.model, fitted.guide))
        model = model.sized(dims)
        sized_on = cells.take(torch.arange(min(2, len(cells))), hops_of(model, guide))
        vars(sized_on)["dims"] = dims
        guide = guide.sized(model, sized_on)
        fresh = [grown for old, one in ((fitted.model, model), (fitted.guide, guide)) for grown in _grown(old, one)]
        if not fresh:
            raise ValueError(f"no weight of {type(model).__name__} or its guide belongs to a level of {field!r}")
        _train(model.eval(), guide.eval(), cells, fresh, epochs, lr, batch_size, progress)
    record = {**fitted.record, "extended": {"field": field, "levels": list(new), "epochs": epochs}}
    counts = {level: int((cells.categories[field] == code).sum()) for code, level in enumerate((*known, *new))}
    of_levels = fitted.record.get("levels", {})
    record["levels"] = {**of_levels, field: {**counts, **of_levels.get(field, {})}}
    return Fit(model, guide, fields, dims, pd.DataFrame(fitted.history), record)


def _dims(dims: Dims, cells: Cells, field: str) -> Dims:
    """The dimensions with the new levels; moments of log sizes of a new batch are those of its cells."""
    levels = {**dims.levels, field: len(cells.levels[field])}
    moments = dims.log_size
    if field == "batch" and moments is not None and cells.dims.log_size is not None:
        new = cells.dims.log_size[dims.levels[field] :]
        moments = torch.cat([moments.expand(dims.levels[field], -1), new.to(moments)])
    return replace(dims, levels=levels, log_size=moments)


def _parts(program: nn.Module) -> set[type[Part]]:
    return {type(module) for module in program.modules() if isinstance(module, Part)}


@torch.no_grad()
def _grown(old: nn.Module, new: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
    """Copy the weights of a program into a larger one. Returns parameters with new weights, and masks of these.

    A table has a new row for each new level. A linear layer has a new column for each; the columns of the design row
    are its last.
    """
    place = _places(old, new)
    before, fresh = {**dict(old.named_parameters()), **dict(old.named_buffers())}, []
    for name, value in [*new.named_parameters(), *new.named_buffers()]:
        known = before[name].to(value.device)
        if known.shape == value.shape:
            value.copy_(known)
            continue
        mask = torch.ones_like(value)
        if known.shape[0] < value.shape[0]:
            value[len(known) :] = known.mean(0)
            value[: len(known)] = known
            mask[: len(known)] = 0
        else:
            columns, start = place(known.shape[1])
            value[:, columns] = known
            mask[:, columns] = 0
            kept = torch.ones(value.shape[1], dtype=torch.bool)
            kept[columns] = False
            value[:, kept] = known[:, start].mean(1, keepdim=True) if len(start) else 0.0
        if isinstance(value, nn.Parameter):
            fresh.append((value, mask))
    return fresh


def _places(old: nn.Module, new: nn.Module) -> Callable[[int], tuple[Tensor, Tensor]]:
    """A function of the number of inputs of an old layer, whose last inputs are the design row.

    It returns the columns of the new layer that the old ones become, and the old columns of the field that has grown.
    """
    columns, grown, offset, at = [torch.empty(0).long()], [torch.empty(0).long()], 0, 0
    for before, after in zip(_conditions(old), _conditions(new), strict=True):
        columns.append(torch.arange(before.width) + offset)
        if after.width > before.width:
            grown.append(torch.arange(before.width) + at)
        offset, at = offset + after.width, at + before.width

    def place(inputs: int) -> tuple[Tensor, Tensor]:
        others = inputs - at
        return torch.cat([torch.arange(others), others + torch.cat(columns)]), others + torch.cat(grown)

    return place


def _conditions(program: Any) -> list[Any]:
    condition = getattr(program, "condition", None) or getattr(getattr(program, "encoder", None), "condition", None)
    members = list(getattr(condition, "members", ())) or [condition]
    return [member for member in members if hasattr(member, "width")]  # others have not been sized: they are not used


def _train(
    model: Any, guide: Any, cells: Cells, fresh: list[tuple[nn.Parameter, Tensor]], epochs: int, lr: float,
    batch_size: int, progress: bool,
) -> None:  # fmt: skip
    """Adam on the new weights alone, at a learning rate that falls to zero."""
    programs = nn.ModuleDict({"model": model, "guide": guide})
    programs.requires_grad_(False)
    masks = []
    for parameter, mask in fresh:
        parameter.requires_grad_(True)
        masks.append(parameter.register_hook(lambda gradient, mask=mask: gradient * mask))
    loss, optimiser = Loss(programs, (), len(cells)), torch.optim.Adam([parameter for parameter, _ in fresh], lr)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda epoch: 1 - epoch / epochs)
    generator = torch.Generator().manual_seed(torch.initial_seed() % 2**31)
    with counted("new levels", epochs * len(cells), progress) as done:
        for _ in range(epochs):
            for minibatch in cells.minibatches(batch_size, generator, hops=hops_of(model, guide)):
                optimiser.zero_grad()
                (loss(minibatch, 1.0) * len(cells) / len(minibatch)).backward()
                optimiser.step()
                done(len(minibatch))
            falling.step()
    for handle in masks:
        handle.remove()
    programs.requires_grad_(True)
