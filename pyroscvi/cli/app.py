"""The application, the arguments and options that commands share, and the commands ``demo`` and ``compare``.

The other commands stand where they are implemented. What a command needs is imported when it runs, so that help and
completion take no import of torch.
"""

from pathlib import Path
from typing import Annotated

import typer

from pyroscvi.cli.grouped import Choices, Columns, Query, Several, Training, completing, grouped, panel

MAX_SEED = 2**32 - 1  # of numpy
in_data, in_training, in_evidence, in_choices = map(panel, ("Data", "Training", "Evidence", "Choices of a sweep"))
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
Data = Annotated[Path, typer.Argument(help="An h5ad file.", metavar="DATA.h5ad")]
Run = Annotated[Path, typer.Argument(help="A folder that `pyroscvi fit` wrote.", metavar="RUN")]
Force = Annotated[bool, option("Replace the files of an earlier run.", "--force")]
ForceFiles = Annotated[bool, option("Replace the files to write where they exist already.", "--force")]
OwnPages = Annotated[
    list[Path] | None, option("The file of your own page that the run was fitted with.", metavar="FILE.py")
]
Seed = Annotated[int, option("Seed of all random numbers.", min=0, max=MAX_SEED)]

# On which cells a model is trained: of every command that fits.
Variable = Annotated[int | None, in_data("Number of highly variable genes to use, chosen by Pearson residuals.", min=2)]
HeldOut = Annotated[float, in_data("Fraction of cells not used in the fit: models are compared on them.")]


@app.command("demo", rich_help_panel="Run")
def demo(
    out: Annotated[Path, option("The folder to write.", metavar="FOLDER")] = Path("pyroscvi-demo"),
    epochs: Annotated[int, option("Number of passes over the cells, for each variant.", min=1)] = 200,
    particles: Annotated[int, option("Number of posterior samples for the evidence of a cell.", min=1)] = 1000,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Fit six variants of one model to 700 blood cells, and compare them on held-out cells."""
    from pyroscvi.cli.demo import demo

    demo(out, epochs=epochs, particles=particles, seed=seed, force=force)


@app.command("compare", cls=Several, rich_help_panel="Run")
@grouped
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="One h5ad file for a sweep, or run folders.", metavar="DATA.h5ad | RUN RUN ...")
    ],
    *,
    data: Annotated[
        Path | None, option("For run folders: the h5ad file with the cells to compare on.", metavar="DATA.h5ad")
    ] = None,
    choices: Choices,
    seeds: Annotated[
        int, in_choices("Number of fits of each model, with different seeds. One seed tells no models apart.", min=1)
    ] = 3,
    columns: Columns,
    query: Query,
    hvg: Variable = None,
    held_out: HeldOut = 0.1,
    training: Training,
    particles: Annotated[int, in_evidence("Number of posterior samples a cell.", min=1)] = 1000,
    method: Annotated[
        str | None, in_evidence("Estimator of the evidence: auto, importance, adaptive, refined, annealed")
    ] = None,
    proposal: Annotated[str | None, in_evidence("Proposal of importance sampling: guide_draws, refined, ...")] = None,
    certify: Annotated[bool, in_evidence("Bound the error of each evidence.", "--certify")] = False,
    by: Annotated[
        str | None, in_evidence("Field whose levels are independent clusters of cells, for standard errors: batch, ...")
    ] = None,
    score: Annotated[int, in_evidence("Number of held-out cells to compare on, of every batch in proportion.")] = 1000,
    single: Annotated[
        bool, in_evidence("Compute the evidence in single precision: errors of about 1e-4 nats.", "--single")
    ] = False,
    compile: Annotated[
        bool, option("Compile training steps and the evidence: faster after the first half minute.", "--compile")
    ] = False,
    seed: Seed = 0,
    out: Annotated[
        Path | None, option("Sweep: the folder to write. Run folders: the table to write.", metavar="FOLDER | CSV")
    ] = None,
    picture: Annotated[Path | None, drawn("Run folders: draw the differences here.")] = None,
    report: Annotated[
        Path | None, option("Write a report here: text, table and pictures in one file.", metavar="HTML")
    ] = None,
    page: OwnPages = None,
    force: Force = False,
) -> None:
    """Compare models by the evidence of cells that they were not fitted to.

    A sweep fits every combination of the choices, except those that its folder already has, and compares them:

    [bold]pyroscvi compare cells.h5ad --likelihood nb zinb --prior normal mixture:8 --latent 5 10 --out runs[/bold]

    Run folders of `pyroscvi fit` are compared on those cells of --data that none of them was fitted to:

    [bold]pyroscvi compare runs/nb runs/zinb --data cells.h5ad[/bold]

    Choices are written as for `pyroscvi fit`. The data come first: an option with choices takes all words after it.
    """
    from pyroscvi.cli.compare import compare_runs, is_sweep
    from pyroscvi.cli.sweep import compare_sweep

    stated = {slot: words for slot, words in vars(choices).items() if words}
    evidence = {"particles": particles, "seed": seed, "method": method, "certify": certify, "by": by}
    evidence |= {"single": single, "compile": compile, "proposal": proposal}
    if not is_sweep(runs, data, stated):
        assert data is not None
        compare_runs(
            runs, data, score=score, evidence=evidence, out=out, picture=picture, report=report, reading=vars(query),
            pages=page, force=force,
        )  # fmt: skip
        return
    compare_sweep(
        runs[0], stated, score=score, out=out, report=report, evidence=evidence, force=force, fields=columns.fields(),
        reading=vars(query), hvg=hvg, held_out=held_out, seed=seed, seeds=seeds,
        training={**training.settings(), "compile": compile},
    )  # fmt: skip
