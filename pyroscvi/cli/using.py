"""What commands share that use a run on cells: the run, the cells as its fit reads them, and their rows of the file."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyroscvi.cli.grouped import Query
from pyroscvi.names import among

if TYPE_CHECKING:
    from anndata import AnnData

    from pyroscvi.cli.runs import Run
    from pyroscvi.data.cells import Cells


class Asked(NamedTuple):
    """A run, cells that its fit can read, and the same cells in the file that they come from."""

    run: "Run"
    cells: "Cells"
    adata: "AnnData"

    def column(self, name: str | None, what: str = "column of obs") -> Any:
        """The column of obs with this name [n]; None without a name."""
        return None if name is None else self.adata.obs[among(name, {key: key for key in self.adata.obs}, what)]


def asked(folder: Path, data: Path, query: Query, pages: Iterable[Path] | None = None, *, labels: bool = True) -> Asked:
    """The run in a folder, and the cells of a file as its fit reads them; without ``labels``, not their labels."""
    from pyroscvi.cli.runs import read_run
    from pyroscvi.data.reading import read

    run = read_run(folder, pages or ())
    adata = read(data)
    fields = run.fields if labels else replace(run.fields, label=None, belief=None)
    cells = fields.read(adata, **vars(query))
    return Asked(run, cells, adata[cells.names].copy() if len(cells) < len(adata) else adata)


def conditions(settings: Iterable[str] | None) -> dict[str, Any]:
    """Values by field, of texts FIELD=VALUE; a number is a number, for covariates.

    >>> conditions(["condition=stim", "dose=2"])
    {'condition': 'stim', 'dose': 2}
    """
    result: dict[str, Any] = {}
    for text in settings or ():
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ValueError(f"{text!r} is no condition: write FIELD=VALUE, such as batch=donor1")
        result[name] = value
        for number in (float, int):
            with suppress(ValueError):
                result[name] = number(value)
    return result


def as_json(value: Any) -> str:
    """A result as JSON for a program: a table as a list of its rows; a number that is not finite is null."""
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        return value.to_json(orient="records", double_precision=15)
    return json.dumps(_plain(value))


def _plain(value: Any) -> Any:
    import numpy as np
    import pandas as pd

    if isinstance(value, pd.DataFrame | pd.Series):
        return json.loads(value.to_json(orient="index" if isinstance(value, pd.DataFrame) else None))
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
