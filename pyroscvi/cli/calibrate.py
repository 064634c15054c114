"""``pyroscvi calibrate``: simulation-based calibration of a run, and a posterior predictive check."""

from pathlib import Path
from typing import Any

import pandas as pd

from pyroscvi.calibration import calibrate, predictive_check
from pyroscvi.cli.data import read_data
from pyroscvi.cli.output import check_free, draw, say
from pyroscvi.cli.runs import read_run
from pyroscvi.fitting.files import write_whole

__all__ = ["calibrate_run"]


def calibrate_run(
    run: Path,
    data: Path | None = None,
    *,
    simulations: int = 1000,
    draws: int = 99,
    corrected: bool = True,
    seed: int = 0,
    out: Path | None = None,
    picture: Path | None = None,
    predictive: Path | None = None,
    reading: dict[str, Any] | None = None,
    pages: list[Path] | None = None,
    force: bool = False,
) -> None:
    check_free(out, picture, predictive, force=force)
    if predictive is not None and data is None:
        raise ValueError("--predictive compares cells with simulated ones: name the cells with --data DATA.h5ad")
    fitted = read_run(run, pages or ())
    cells = None if data is None else fitted.fields.read(read_data(data), **(reading or {}))
    ranks = calibrate(fitted.fit, cells, simulations, draws=draws, corrected=corrected, seed=seed)
    say(ranks)
    if out is not None:
        tables = {name: one.table for name, one in ranks.ranks.items()}  # of each kind of samples, a row a quantity
        write_whole(out, pd.concat(tables, names=["draws", "quantity"]).to_csv)
    if picture is not None:
        draw(picture, ranks.plot())
    if predictive is not None:
        check = predictive_check(fitted.fit, cells, corrected=corrected, seed=seed)
        say(f"\n{check}")
        draw(predictive, check.plot())
