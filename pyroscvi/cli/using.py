"""What commands share that use a run on cells: their options, the run, and the cells as its fit reads them."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyroscvi.cli.app import ForceFiles, Json, OwnPages, Quiet, Seed
from pyroscvi.cli.grouped import Query
from pyroscvi.cli.output import say
from pyroscvi.names import among

if TYPE_CHECKING:
    from anndata import AnnData

    from pyroscvi.cli.runs import Run
    from pyroscvi.data.cells import Cells


@dataclass(frozen=True)
class Using(Query):
    """Options of all commands that use a run on cells: how cells are read, and how results are given."""

    page: OwnPages = None
    seed: Seed = 0
    json: Json = False
    quiet: Quiet = False
    force: ForceFiles = False

    @property
    def reading(self) -> dict[str, Any]:
        """The arguments of ``Fields.read``."""
        return {option.name: getattr(self, option.name) for option in fields(Query)}

    def say(self, result: Any, lines: Iterable[object], **files: Path | None) -> None:
        """Print a result: as JSON, or as lines and the files that were written, each called by its keyword."""
        if self.json:
            say(as_json(result))
        elif not self.quiet:
            written = (f"{file}: the {what}" for what, file in files.items() if file is not None)
            for line in chain(lines, written):
                say(line)


class Asked(NamedTuple):
    """A run, cells that its fit can read, and the same cells in the file that they come from."""

    run: "Run"
    cells: "Cells"
    adata: "AnnData"

    def column(self, name: str | None, what: str = "column of obs") -> Any:
        """The column of obs with this name [n]; None without a name."""
        return None if name is None else self.adata.obs[among(name, {key: key for key in self.adata.obs}, what)]


def asked(
    folder: Path, data: Path, how: Using, *, labels: bool = True, annotations: Path | None = None
) -> Asked:  # fmt: skip
    """The run in a folder, and the cells of a file as its fit reads them; without ``labels``, not their labels."""
    from pyroscvi.cli.runs import read_run
    from pyroscvi.data.reading import read

    run = read_run(folder, how.page or ())
    adata = read(data, annotations)
    columns = run.fields if labels else replace(run.fields, label=None, belief=None)
    cells = columns.read(adata, **how.reading)
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
