"""``pyroscvi fit``: from an h5ad file to a run folder."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyroscvi import __version__
from pyroscvi.cli.data import open_cells, read_cells
from pyroscvi.cli.declare import declare, own_files
from pyroscvi.cli.output import say
from pyroscvi.cli.runs import carry_out, open_folder, write_run
from pyroscvi.inference.distributed import Ranks

__all__ = ["fit_run"]


def fit_run(
    data: Path,
    out: Path,
    slots: Mapping[str, Any],
    *,
    fields: dict[str, Any],
    reading: dict[str, Any],
    hvg: int | None,
    held_out: float,
    training: dict[str, Any],
    backed: bool = False,
    force: bool = False,
) -> None:
    model, guide = declare(**slots)
    own = own_files(slots["model"], slots["guide"])
    if backed or data.is_dir() or data.suffix in (".h5", ".hdf5"):
        cells, obs = open_cells(data, fields, reading, hvg, training["seed"])
    else:
        cells, obs = read_cells(data, fields, reading, hvg)
    seen, unseen = cells.split(held_out, seed=training["seed"]) if held_out else (cells, None)

    asked = {
        "data": str(data),
        "model": repr(model),
        "guide": repr(guide),
        "pages": [file.name for file in own],
        "fields": {name: value for name, value in fields.items() if value},
        "reading": reading,
        "hvg": hvg,
        "held_out": held_out,
        "training": {**training, "early_stopping": repr(training["early_stopping"])},
        "pyroscvi": __version__,
    }
    ranks = Ranks.here()  # of processes that torchrun started, the first one alone writes

    def begin() -> None:
        open_folder(out, asked, force)
        for file in own:
            shutil.copy(file, out / file.name)

    ranks.from_first(begin)
    fitted = carry_out(out, model, guide, seen, **training)
    ranks.from_first(lambda: write_run(out, fitted, cells, obs, unseen))
    if ranks.first:
        say(f"{out}: {fitted!r}")
