"""Fields.read against an oracle that uses none of the library: odd inputs are read right, or refused in words."""

import tempfile
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData, read_h5ad
from scipy import sparse

from pyroscvi import Cells, Fields

from .inputs import Input, made
from .runner import Outcome, isolated, refusal

__all__ = ["reading", "several", "wrongs"]


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
        return _refused(error, what, expected)
    if expected == "reject":
        return Outcome("accepted wrongly", what, "it should have been refused")
    wrong = wrongs(adata, cells, one.fields)
    return Outcome("accepted wrongly" if wrong else "right", what, "; ".join(wrong))


def several(seed: int) -> Outcome:
    """The outcome of opening the input of a seed as one to three files, whose genes differ in order and in number."""
    one = made(seed)
    what = " + ".join(one.changes)
    return isolated(lambda: _opened(one, what), what)


def _opened(one: Input, what: str) -> Outcome:
    rng, genes = one.rng, str(one.rng.choice(["intersection", "union"]))
    with tempfile.TemporaryDirectory() as folder:
        try:
            whole = one.adata()
            if one.fragile:  # scipy may crash when it cuts this matrix
                return Outcome("impossible", what)
            ends = np.unique([0, *rng.integers(0, whole.n_obs, 2), whole.n_obs])
            paths, tables = [], []
            for start, end in pairwise(ends):
                some = rng.permutation(whole.n_vars)[: whole.n_vars - int(one.expected == "accept" and rng.integers(2))]
                part = whole[start:end, some].copy()
                paths.append(f"{folder}/{start}.h5ad")
                tables.append(part.to_df().set_axis(_numbered(part.var_names), axis=1))
                part.write_h5ad(paths[-1])
            table = pd.concat(tables, join="inner" if genes == "intersection" else "outer").fillna(0)
            obs = pd.concat([read_h5ad(path).obs for path in paths])  # HDF5 turns bytes into text
        except Exception as error:
            return Outcome("impossible", what, f"{type(error).__name__}: {error}"[:200])
        what = f"{what}, {len(paths)} files, {genes}"
        possible = one.form in ("csr_matrix", "asarray") and table.size and table.sum(1).all()
        expected = one.expected if possible or one.expected == "reject" else "either"
        if "spatial" in one.fields:  # the graph of neighbours needs all cells in memory
            expected = "reject"
        try:
            cells = Fields(**one.fields).open(paths, genes=genes, **one.options)
        except Exception as error:
            return _refused(error, what, expected)
        if expected == "reject" or {*cells.genes} != {*table.columns}:
            return Outcome("accepted wrongly", what, "it should have been refused, or has other genes")
        expected_cells = AnnData(table[list(cells.genes)], obs=obs)
        wrong = wrongs(expected_cells, cells.subset(slice(None)), one.fields)
    return Outcome("accepted wrongly" if wrong else "right", what, "; ".join(wrong))


def _numbered(names: pd.Index) -> list[str]:
    """Names in which a repeated name has a number: G, G-1, G-2, as ``Fields`` counts them in every file."""
    before = names.to_series().groupby(names.to_numpy()).cumcount()
    return [f"{name}-{k}" if k else str(name) for name, k in zip(names, before, strict=True)]


def _refused(error: Exception, what: str, expected: str) -> Outcome:
    outcome = refusal(error, what)
    wrongly = outcome.good and expected == "accept"
    return Outcome("refused wrongly", what, outcome.detail) if wrongly else outcome


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
