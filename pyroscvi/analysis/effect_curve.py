"""Effects along a dose, a time, or any other condition of which there are several values.

fit.effect_curve(cells, "dose", [0.5, 1.0, 2.0], against={"dose": 0.0}, by="cell_type")
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from anndata import AnnData

from pyroscvi.analysis.effect import effects
from pyroscvi.analysis.posterior import Conditions
from pyroscvi.data.cells import Cells
from pyroscvi.program import Fitted


def effect_curve(
    fit: Fitted, cells: Cells | AnnData, field: str, values: Sequence[str | float], against: Conditions, *,
    given: Conditions | None = None, **options: Any,
) -> pd.DataFrame:  # fmt: skip
    """How mean rates change if cells are under each value of a field or covariate rather than ``against``.

    field     the field or covariate that takes the values
    values    of a covariate, in its own units; or levels of a field, in the order of the curve
    against   conditions to compare with, of the same fields: ``{"dose": 0.0}``
    given     the other conditions, the same along the curve
    options   of ``effect``: by, average, delta, level, samples, corrected, seed

    Returns the rows of ``effect`` for each value, with the value in a column named like the field. All values use
    the same draws of the states of cells, so a curve is as smooth as the model is.
    """
    if not len(values):
        raise ValueError(f"{field}: give at least one value")
    several = [{**(given or {}), field: value} for value in values]
    tables = effects(fit, cells, several, against, **options)
    return pd.concat(
        [table.assign(**{field: value}) for table, value in zip(tables, values, strict=True)], ignore_index=True
    )
