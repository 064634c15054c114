"""A guide that is trained further on new cells, for a model that stays as it is."""

import copy
from dataclasses import replace
from typing import Any

from anndata import AnnData

from pyroscvi.data.cells import Cells
from pyroscvi.fitting.fit import fit
from pyroscvi.fitting.result import Fit
from pyroscvi.part import Part
from pyroscvi.pyro_internals import alone


@alone
def adapted(
    fitted: Fit, cells: Cells | AnnData, *, epochs: int = 20, lr: float = 2e-3, seed: int = 0, progress: bool = True
) -> Fit:
    """The fit with a guide that was trained further on these cells; its model does not change.

    A guide learns to read cells like those of training. In new cells other genes may have been measured, which widens
    the gap between its posterior and that of the model: ``docs/missing_genes.md`` shows by how much.

    epochs, lr, seed, progress   as in ``fit``; there is no KL warm-up

    Raises ValueError where the prior is made of the guide, and so would change with it.
    """
    cells = fitted.read(cells)
    for part in fitted.model.modules():
        if isinstance(part, Part) and type(part).follow is not Part.follow:
            raise ValueError(
                f"{part!r} is made of the guide: if the guide were trained further, the model would change"
            )
    model, guide = copy.deepcopy((fitted.model, fitted.guide))
    options: Any = {"warmup": 0.0, "seed": seed, "progress": progress, "device": cells.device}
    new = fit(model.requires_grad_(False), guide, cells, epochs=epochs, lr=lr, **options)
    new.model.requires_grad_(True)
    record = {**fitted.record, "panels": new.record["panels"]}
    return replace(new, fields=fitted.fields, dims=fitted.dims, record=record)
