"""Fields.read against an oracle that uses none of the library: odd inputs are read right, or refused in words."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from pyroscvi import Cells, Fields

from .inputs import Input, made
from .runner import Outcome, isolated, refusal

__all__ = ["reading", "wrongs"]


def reading(seed: int) -> Outcome:
    """The outcome of reading the input of a seed."""
    one = made(seed)
    what = " + ".join(one.changes)
    return isolated(lambda: _read(one, what), what) if one.fragile else _read(one, what)


def _read(one: Input, what: str) -> Outcome:
    try:
        adata = one.adata()
    except Exception as error:
        return Outcome("impossible", what, f"{type(error).__name__}: {error}"[:200])
    expected = "reject" if one.expected == "accept" and (one.counts.sum(1) == 0).any() else one.expected
    try:
        cells = Fields(**one.fields).read(adata, **one.options)
    except Exception as error:
        outcome = refusal(error, what)
        wrongly = outcome.good and expected == "accept"
        return Outcome("refused wrongly", what, outcome.detail) if wrongly else outcome
    if expected == "reject":
        return Outcome("accepted wrongly", what, "it should have been refused")
    wrong = wrongs(adata, cells, one.fields)
    return Outcome("accepted wrongly" if wrong else "right", what, "; ".join(wrong))


def wrongs(adata: AnnData, cells: Cells, fields: dict[str, Any]) -> list[str]:
    """What in the cells is not as in the AnnData."""
    dense = np.asarray(adata.X.toarray() if sparse.issparse(adata.X) else adata.X).astype(np.float64)
    x = cells.x.numpy().astype(np.float64)
    checks = {
        "counts differ": np.array_equal(x, dense),
        "totals differ": np.allclose(cells.library.numpy().ravel(), x.sum(1)),
        "values that are no counts": np.isfinite(x).all() and (x >= 0).all() and (x == np.floor(x)).all(),
        "a cell without counts": bool((x.sum(1) > 0).all()),
    }
    for name in ("batch", "label"):
        if name in fields:
            levels = cells.levels[name]
            read = [None if code < 0 else levels[code] for code in cells.categories[name].tolist()]
            checks[f"{name} differs"] = read == _levels(adata.obs[fields[name]]) and len(set(levels)) == len(levels)
    if cells.covariates is not None:
        checks["covariates are not standardised"] = _standardised(adata.obs["covariates"], cells.covariates)
    for name in ("size_factor", "belief"):
        values = getattr(cells, name)
        if values is not None:
            total = values if values.ndim == 1 else values.sum(1)
            checks[f"{name} is not finite and positive"] = bool(torch.isfinite(values).all() and (total > 0).all())
    if cells.graph is not None:
        graph = cells.graph.tocoo()
        degree = np.bincount(graph.row, minlength=len(cells))
        checks["distances are not finite"] = np.isfinite(graph.data).all() and (graph.data >= 0).all()
        checks["a cell is its own neighbour"] = not (graph.row == graph.col).any()
        checks["cells lack neighbours"] = (degree == min(6, len(cells) - 1)).all()
    return [wrong for wrong, right in checks.items() if not right]


def _levels(values: pd.Series) -> list[str | None]:
    """Names of levels, by another rule: whole numbers have one name, however they are stored."""
    names: list[str | None] = []
    for value in values.astype(object):
        missing = value is None or value is pd.NA or value is pd.NaT or value != value
        whole = isinstance(value, float) and not missing and value.is_integer()
        names.append(None if missing else str(int(value) if whole else value))
    return names


def _standardised(column: pd.Series, values: torch.Tensor) -> bool:
    """Whether values are (x - mean) / sd of the column; a column that varies by rounding alone is not judged."""
    if not torch.isfinite(values).all():
        return False
    x = column.to_numpy(dtype=np.float64)
    x = x / (np.abs(x).max() or 1.0)
    if len(x) < 2 or np.ptp(x) <= 1e-9:
        return True
    return np.allclose(values.numpy().ravel(), (x - x.mean()) / x.std(), atol=1e-3)
