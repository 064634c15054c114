"""``pyroscvi calibrate``: simulation-based calibration of a run, and a posterior predictive check."""

from pathlib import Path
from typing import Annotated

from pyroscvi.cli.app import ForceFiles, OwnPages, Run, Seed, app, drawn, option
from pyroscvi.cli.grouped import Query, grouped
from pyroscvi.cli.output import check_free, draw, terminal


@app.command("calibrate", rich_help_panel="Run")
@grouped
def calibrate(
    run: Run,
    data: Annotated[
        Path | None,
        option("Cells whose conditions and sizes are used, in place of those of training.", metavar="DATA.h5ad"),
    ] = None,
    *,
    simulations: Annotated[int, option("Number of simulated cells.", min=1)] = 1000,
    draws: Annotated[int, option("Number of posterior samples for each cell.", min=1)] = 99,
    raw: Annotated[
        bool, option("Check only the samples of the guide, without importance weights: faster.", "--raw")
    ] = False,
    seed: Seed = 0,
    out: Annotated[Path | None, option("Write the table here.", metavar="CSV")] = None,
    picture: Annotated[Path | None, drawn("Draw the ranks of the true values here, with confidence bands.")] = None,
    predictive: Annotated[Path | None, drawn("Draw a posterior predictive check of --data here.")] = None,
    query: Query,
    page: OwnPages = None,
    force: ForceFiles = False,
) -> None:
    """Check by simulation whether the posteriors of a run are those of its model."""
    import pandas as pd

    from pyroscvi.calibration import calibrate, predictive_check
    from pyroscvi.cli.runs import read_run
    from pyroscvi.data.reading import read
    from pyroscvi.fitting.files import write_whole

    check_free(out, picture, predictive, force=force)
    if predictive is not None and data is None:
        raise ValueError("--predictive compares cells with simulated ones: name the cells with --data DATA.h5ad")
    fitted = read_run(run, page or ())
    cells = None if data is None else fitted.fields.read(read(data), **vars(query))
    ranks = calibrate(fitted.fit, cells, simulations, draws=draws, corrected=not raw, seed=seed)
    terminal().print(ranks)
    if out is not None:
        tables = {name: one.table for name, one in ranks.ranks.items()}  # of each kind of samples, a row a quantity
        write_whole(out, pd.concat(tables, names=["draws", "quantity"]).to_csv)
    if picture is not None:
        draw(picture, ranks.plot())
    if predictive is not None:
        check = predictive_check(fitted.fit, cells, corrected=not raw, seed=seed)
        terminal().print("", check)
        draw(predictive, check.plot())
