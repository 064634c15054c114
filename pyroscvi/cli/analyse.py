"""``pyroscvi analyse``: from a file of cells to a report, without an option."""

from pathlib import Path
from typing import Annotated

from pyroscvi.cli.app import Annotations, Data, Quiet, Seed, app, in_data, in_training, option
from pyroscvi.cli.output import say


@app.command("analyse", rich_help_panel="Use")
def analyse(
    data: Data,
    out: Annotated[Path | None, option("The folder to write. Default: named after the data.", metavar="FOLDER")] = None,
    *,
    minutes: Annotated[float, option("What all of it may take, about.")] = 10.0,
    counts: Annotated[str | None, in_data("Layer with the counts, or X. Default: the first that holds counts.")] = None,
    batch: Annotated[str | None, in_data("Column of obs to correct for.")] = None,
    donor: Annotated[str | None, in_data("Column of obs: the donor of a cell, the unit of tests.")] = None,
    label: Annotated[str | None, in_data("Column of obs: types to compare the clusters with.")] = None,
    condition: Annotated[str | None, in_data("Column of obs to test for, within clusters.")] = None,
    spatial: Annotated[str | None, in_data("Key of obsm: cells are read with their neighbours.")] = None,
    annotations: Annotations = None,
    hvg: Annotated[int, in_data("Number of variable genes to use, if there are more.", min=2)] = 2000,
    resolution: Annotated[float, option("Resolution of the clusters: larger values give more.")] = 1.0,
    denoised: Annotated[bool, option("Write the posterior mean rates as a layer, too.", "--denoised")] = False,
    epochs: Annotated[
        int | None, in_training("Number of passes over the cells. Default: by their number.", min=1)
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Choose a model by its evidence, fit it, cluster the cells, find marker genes, and write a report.

    No option is needed: the command says which columns it takes for batches, donors, labels and conditions.

    [bold]pyroscvi analyse cells.h5ad[/bold]
    """
    from pyroscvi.data.reading import read
    from pyroscvi.workflow.analyse import analyse

    folder = Path(f"{data.name.split('.')[0]}-analysis") if out is None else out
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder with --out")
    result = analyse(
        read(data, annotations), minutes=minutes, out=folder, counts=counts, batch=batch, donor=donor, label=label,
        condition=condition, spatial=spatial, genes=hvg, resolution=resolution, denoised=denoised, data=data.resolve(),
        seed=seed, tell=None if quiet else say, **({} if epochs is None else {"epochs": epochs}),
    )  # fmt: skip
    if not quiet:
        say(result)
        say(f"{folder / 'report.html'}: the report. {folder}: analysed.h5ad, markers.csv, script.py and the fit")
