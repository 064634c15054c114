"""The estimand: what an evidence is a probability of. It depends on the model and on the cells."""

from typing import Any

import torch

from pyroscvi.data.cells import Cells
from pyroscvi.parts.sizes import SizeFactor

__all__ = ["estimand"]

ROUNDING = 1e-5  # relative: size factors may have been stored in single precision


def estimand(model: Any, cells: Cells) -> str:
    """``model.estimand`` for these cells: "p(x)", "p(x | l)", "p(x, label | l)", ...

    Labels are part of it if the label of at least one cell is known: a label that is unknown has probability one.
    It is conditional on l also if the model reads a size factor that is the total of the cell's own counts, or
    proportional to it. A size factor that was computed from the counts in another way is not noticed.
    """
    name = str(getattr(model, "estimand", "p(x)"))
    if "label" in name and bool((cells.label_weights(len(cells.levels.get("label", (0,)))) == 1).all()):
        name = name.replace("x, label", "x")
    sized = any(isinstance(part, SizeFactor) for part in getattr(model, "children", list)())
    return f"{name[:-1]} | l)" if sized and "| l" not in name and _is_own_total(cells) else name


def _is_own_total(cells: Cells) -> bool:
    if cells.size_factor is None:
        return False
    counted = cells.library.squeeze(-1) > 0
    factor, total = cells.size_factor[counted].double(), cells.library.squeeze(-1)[counted].double()
    if not len(total):
        return False
    ratio = factor / total
    proportional = bool(total.max() > total.min() and ratio.max() <= (1 + ROUNDING) * ratio.min())
    return proportional or torch.allclose(factor, total, rtol=ROUNDING)
