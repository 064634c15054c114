"""The application, the arguments and options that commands share, and the command ``demo``.

The other commands stand where they are implemented. What a command needs is imported when it runs, so that help and
completion take no import of torch.
"""

from pathlib import Path
from typing import Annotated

import typer

from pyroscvi.cli.grouped import completing, panel

MAX_SEED = 2**32 - 1  # of numpy
KINDS = "Cells: h5ad, zarr, h5mu, 10x Genomics' h5 file or folder, HDF5 batch files and their folder, csv, tsv."
in_data, in_training = map(panel, ("Data", "Training"))
option, drawn = panel(), panel(metavar="PNG")

app = typer.Typer(
    name="pyroscvi",
    help="A zoo of probabilistic programs for single-cell and spatial counts.",
    epilog="Start with [bold]pyroscvi demo[/bold], and read a page with [bold]pyroscvi show scvi[/bold].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

PageName = Annotated[
    str, typer.Argument(help="A name that `pyroscvi list` prints.", autocompletion=completing("models", "guides"))
]
Data = Annotated[Path, typer.Argument(help=KINDS, metavar="DATA")]
Run = Annotated[Path, typer.Argument(help="A folder that `pyroscvi fit` wrote.", metavar="RUN")]
Force = Annotated[bool, option("Replace the files of an earlier run.", "--force")]
ForceFiles = Annotated[bool, option("Replace the files to write where they exist already.", "--force")]
OwnPages = Annotated[
    list[Path] | None, option("The file of your own page that the run was fitted with.", metavar="FILE.py")
]
Json = Annotated[bool, option("Print the result as JSON, for a program to read.", "--json")]
Quiet = Annotated[bool, option("Print no result and no progress: errors and warnings only.", "--quiet")]
Corrected = Annotated[
    bool, option("Sample the exact posterior, by importance sampling from the guide: slower.", "--corrected")
]
Seed = Annotated[int, option("Seed of all random numbers.", min=0, max=MAX_SEED)]

# On which cells a model is trained: of every command that fits.
Annotations = Annotated[
    Path | None,
    in_data("A table with a row for each cell, whose columns are added to obs.", "--annotations", metavar="FILE.tsv"),
]
HeldOut = Annotated[float, in_data("Fraction of cells not used in the fit: models are compared on them.")]
SplitBy = Annotated[
    str | None, in_data("Column of obs, such as the donor, whose levels are held out whole: none is on both sides.")
]


@app.command("demo", rich_help_panel="Run")
def demo(
    out: Annotated[Path, option("The folder to write.", metavar="FOLDER")] = Path("pyroscvi-demo"),
    epochs: Annotated[int, option("Number of passes over the cells, for each fit.", min=1)] = 120,
    particles: Annotated[int, option("Draws for the evidence of a cell, at most.", min=1)] = 10_000,
    seed: Seed = 0,
    seeds: Annotated[int, option("Number of fits of each variant, with different seeds.", min=1)] = 3,
) -> None:
    """Fit six variants of one model to 700 blood cells, and compare them on held-out cells."""
    from pyroscvi.cli.demo import demo

    demo(out, epochs=epochs, particles=particles, seed=seed, seeds=seeds)
