"""Guides made from that of a fit: trained further on new cells, or reading the neighbours of cells, too."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anndata import AnnData

from pyroscvi.data.cells import Cells
from pyroscvi.fitting.declarations import declaration, declared
from pyroscvi.fitting.fit import fit
from pyroscvi.fitting.result import Fit
from pyroscvi.inference.loss import Objective
from pyroscvi.part import Part
from pyroscvi.parts.encoders import Encoder
from pyroscvi.program import Guide, Pair
from pyroscvi.pyro_internals import alone


@alone
def adapted(
    fitted: Fit, cells: Cells | AnnData, *, epochs: int = 20, lr: float = 2e-3, objectives: Sequence[Objective] = (),
    seed: int = 0, progress: bool = True,
) -> Fit:  # fmt: skip
    """The fit with a guide that was trained further on these cells; its model does not change.

    A guide learns to read cells like those of training. In new cells other genes may have been measured, which widens
    the gap between its posterior and that of the model: ``docs/missing_genes.md`` shows by how much.

    epochs, lr, objectives, seed, progress   as in ``fit``; there is no KL warm-up. ``Sleep`` is an objective that
                                             widens posteriors which are too narrow

    Raises ValueError where the prior is made of the guide, and so would change with it.
    """
    cells = fitted.read(cells)
    for part in fitted.model.modules():
        if isinstance(part, Part) and type(part).follow is not Part.follow:
            raise ValueError(
                f"{part!r} is made of the guide: if the guide were trained further, the model would change"
            )
    model, guide = copy.deepcopy((fitted.model, fitted.guide))
    options: Any = {"warmup": 0.0, "seed": seed, "progress": progress, "device": cells.device, "objectives": objectives}
    new = fit(model.requires_grad_(False), guide, cells, epochs=epochs, lr=lr, **options)
    new.model.requires_grad_(True)
    record = {**fitted.record, "panels": new.record["panels"]}
    return replace(new, fields=fitted.fields, dims=fitted.dims, record=record)


def with_neighbours(fitted: Fit, guide: Guide, cells: Cells | AnnData, *, frozen: bool = False) -> Pair:
    """The model of a fit, and a guide that reads neighbours, whose encoder of single cells is that of the fit.

        cells = fitted.read(tissue)
        model, guide = fitted.with_neighbours(SpatialGNN(), cells, frozen=True)
        fit(model, guide, cells)

    guide    declared; its slot ``encoder.cell`` takes the encoder of the fit, with its weights
    cells    with a graph of neighbours
    frozen   the encoder of single cells, and the model, stay as they are: only messages and heads are trained

    Raises ValueError for a guide that does not read neighbours, or a fit whose guide already does.
    """
    cells = fitted.read(cells)
    if not guide.encoder.hops or fitted.guide.encoder.hops:
        raise ValueError(
            f"the fit's guide reads cells alone and the new one neighbours, too: not {fitted.guide!r} and {guide!r}"
        )
    model, single = copy.deepcopy((fitted.model, fitted.guide))
    guide = copy.deepcopy(guide)
    guide.encoder.cell = _declared_again(single.encoder)
    guide = guide.sized(model, cells)
    guide.encoder.cell = single.encoder
    if type(guide).head is type(single).head:  # the same family
        guide.heads.load_state_dict(single.heads.state_dict())
    for program in (model, guide.encoder.cell) if frozen else ():
        program.requires_grad_(False)
    return model, guide


def _declared_again(part: Encoder) -> Any:
    """The declaration of a sized part, without parameters."""
    return declared(declaration(part), [type(part)])
