"""The grammar of the command line: every command with its arguments and options."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pyroscvi.cli.grouped import Columns, Query, Reading, Training, grouped
from pyroscvi.cli.several import Several

__all__ = ["app"]

MAX_SEED = 2**32 - 1  # of numpy

app = typer.Typer(
    name="pyroscvi",
    help="A zoo of probabilistic programs for single-cell and spatial counts.",
    epilog="Start with [bold]pyroscvi demo[/bold], and read a page with [bold]pyroscvi show scvi[/bold].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def complete_page(incomplete: str) -> list[tuple[str, str]]:
    return _complete(("models", "guides"), incomplete)


def complete_model(incomplete: str) -> list[tuple[str, str]]:
    return _complete(("models",), incomplete)


def complete_guide(incomplete: str) -> list[tuple[str, str]]:
    return _complete(("guides",), incomplete)


def _complete(kinds: tuple[str, ...], incomplete: str) -> list[tuple[str, str]]:
    from pyroscvi.catalogue import pages

    return [(p.name, p.headline) for p in pages().values() if p.kind in kinds and p.name.startswith(incomplete)]


PageName = Annotated[str, typer.Argument(help="A name that `pyroscvi list` prints.", autocompletion=complete_page)]
Data = Annotated[Path, typer.Argument(help="An h5ad file.", metavar="DATA.h5ad")]
Run = Annotated[Path, typer.Argument(help="A folder that `pyroscvi fit` wrote.", metavar="RUN")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]
OwnPages = Annotated[
    list[Path] | None, typer.Option(help="A file of your own that a run was fitted with.", metavar="FILE.py")
]
Seed = Annotated[int, typer.Option(help="Same seed, same result.", min=0, max=MAX_SEED)]

# On which cells a model is trained: of every command that fits.
Variable = Annotated[
    int | None, typer.Option(help="Keep this many variable genes, by Pearson residuals.", min=2, rich_help_panel="Data")
]
HeldOut = Annotated[
    float, typer.Option(help="Fraction of cells kept from the fit, to compare on.", rich_help_panel="Data")
]


@app.command("list", rich_help_panel="Read")
def list_pages() -> None:
    """The models and guides of the zoo, one line each."""
    from pyroscvi.cli.show import print_catalogue

    print_catalogue()


@app.command(rich_help_panel="Read")
def show(
    page: PageName,
    source: Annotated[bool, typer.Option("--source", help="Print the whole file, class and all.")] = False,
) -> None:
    """A page as its file tells it: the generative story, what is special, the references, the slots."""
    from pyroscvi.cli.show import print_page

    print_page(page, source=source)


@app.command(rich_help_panel="Read")
def copy(
    page: PageName,
    file: Annotated[Path, typer.Argument(help="The file to write.", metavar="FILE.py")],
    force: Force = False,
) -> None:
    """Fork a page: a copy of its file, to edit. `--model ./FILE.py` then fits it."""
    from pyroscvi.cli.show import copy_page

    copy_page(page, file, force=force)


@app.command(rich_help_panel="Run")
def demo(
    out: Annotated[Path, typer.Option(help="The folder to write.", metavar="FOLDER")] = Path("pyroscvi-demo"),
    epochs: Annotated[int, typer.Option(help="Passes over the cells, for each variant.", min=1)] = 200,
    particles: Annotated[int, typer.Option(help="Draws a cell, for its evidence.", min=1)] = 1000,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Fit variants of one model to 700 blood cells, and compare them on held-out cells."""
    from pyroscvi.cli.demo import demo

    demo(out, epochs=epochs, particles=particles, seed=seed, force=force)


@app.command(rich_help_panel="Run")
@grouped
def fit(
    data: Annotated[
        Path, typer.Argument(help="An h5ad file; or zarr, or a folder of files, left on disk.", metavar="DATA.h5ad")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.", metavar="RUN")],
    *,
    model: Annotated[
        str, typer.Option(help="A page, or a file of your own.", autocompletion=complete_model, rich_help_panel="Model")
    ] = "scvi",
    guide: Annotated[
        str, typer.Option(help="What is said of the latents.", autocompletion=complete_guide, rich_help_panel="Model")
    ] = "mean_field",
    latent: Annotated[int | None, typer.Option(help="Dimensions of z.", min=1, rich_help_panel="Model")] = None,
    likelihood: Annotated[str | None, typer.Option(help="poisson, nb, zinb, zip, ...", rich_help_panel="Model")] = None,
    dispersion: Annotated[
        str | None, typer.Option(help="per_gene, per_batch, per_label, per_cell, random", rich_help_panel="Model")
    ] = None,
    prior: Annotated[str | None, typer.Option(help="mixture:8, laplace, vamp:32, ...", rich_help_panel="Model")] = None,
    decoder: Annotated[str | None, typer.Option(help="linear, mlp:256,128, ...", rich_help_panel="Model")] = None,
    size: Annotated[str | None, typer.Option(help="observed, latent, size_factor", rich_help_panel="Model")] = None,
    condition: Annotated[
        str | None, typer.Option(help="one_hot:batch+embedding:perturbation:16, ...", rich_help_panel="Model")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="read_cell:256,128, ... (of the guide)", rich_help_panel="Model")
    ] = None,
    columns: Columns,
    reading: Reading,
    hvg: Variable = None,
    backed: Annotated[
        bool,
        typer.Option(
            "--backed", help="Leave the counts on disk: a file need not fit in memory.", rich_help_panel="Data"
        ),
    ] = False,
    held_out: HeldOut = 0.1,
    training: Training,
    scale_lr: Annotated[
        bool, typer.Option("--scale-lr", help="Make --lr larger with --batch-size.", rich_help_panel="Training")
    ] = False,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the training step first.", rich_help_panel="Training")
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Same seed, same result.", min=0, max=MAX_SEED, rich_help_panel="Training")
    ] = 0,
    force: Force = False,
) -> None:
    """Fit a model to an h5ad file, and leave a run folder: the fit, its configuration, history and latents.

    Parts are named as they are in Python, in snake case, with their fields behind colons: --prior mixture:8 is
    Mixture(components=8), and --model gmvae:kinds=12 is GMVAE(kinds=12).
    """
    from pyroscvi.cli.fit import fit_run

    slots = {
        "latent": latent,
        "likelihood": likelihood,
        "dispersion": dispersion,
        "prior": prior,
        "decoder": decoder,
        "size": size,
        "condition": condition,
    }
    settings = {**training.settings(), "scale_lr": scale_lr, "compile": compile, "seed": seed}
    fit_run(
        data, out, model=model, guide=guide, slots=slots, encoder=encoder, fields=columns.fields(),
        reading=reading.options(), hvg=hvg, held_out=held_out, training=settings, backed=backed, force=force,
    )  # fmt: skip


@app.command(rich_help_panel="Run")
@grouped
def embed(
    run: Run,
    data: Data,
    out: Annotated[Path, typer.Option(help="The file to write.", metavar="OUT.h5ad")],
    *,
    picture: Annotated[Path | None, typer.Option(help="Draw a UMAP of the latents here.", metavar="PNG")] = None,
    tissue: Annotated[
        Path | None, typer.Option(help="Draw the cells on the tissue here, a panel for each section.", metavar="PNG")
    ] = None,
    color: Annotated[str | None, typer.Option(help="A column of obs, for the pictures.")] = None,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="Means of the posterior itself, not of the guide: slower.")
    ] = False,
    query: Query,
    page: OwnPages = None,
    force: Force = False,
) -> None:
    """Read cells with a fit: posterior means of their latents, as obsm["X_pyroscvi"]."""
    from pyroscvi.cli.embed import embed_run

    embed_run(
        run, data, out, picture=picture, tissue_picture=tissue, color=color, corrected=corrected,
        reading=query.options(), pages=page, force=force,
    )  # fmt: skip


def _choices(help: str) -> Any:
    return typer.Option(help=help, metavar="CHOICE ...", rich_help_panel="Choices of a sweep")


@app.command(cls=Several, rich_help_panel="Run")
@grouped
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="An h5ad file, for a sweep; or runs.", metavar="DATA.h5ad | RUN RUN ..."),
    ],
    *,
    data: Annotated[
        Path | None, typer.Option(help="For runs: the h5ad file whose cells they are compared on.", metavar="DATA.h5ad")
    ] = None,
    model: Annotated[list[str] | None, _choices("Pages, or files of your own.")] = None,
    guide: Annotated[list[str] | None, _choices("mean_field, full_covariance, low_rank, ...")] = None,
    latent: Annotated[list[str] | None, _choices("Dimensions of z: 5 10 20")] = None,
    likelihood: Annotated[list[str] | None, _choices("poisson, nb, zinb, zip, ...")] = None,
    dispersion: Annotated[list[str] | None, _choices("per_gene, per_batch, per_label, per_cell, ...")] = None,
    prior: Annotated[list[str] | None, _choices("normal, mixture:8, laplace, vamp:32, ...")] = None,
    decoder: Annotated[list[str] | None, _choices("linear, mlp:256,128, ...")] = None,
    size: Annotated[list[str] | None, _choices("observed, latent, size_factor")] = None,
    condition: Annotated[list[str] | None, _choices("one_hot:batch, embedding:donor:16, ...")] = None,
    encoder: Annotated[list[str] | None, _choices("read_cell:256,128, ... (of the guide)")] = None,
    seeds: Annotated[
        int,
        typer.Option(
            help="Fits of each: a mean over them, and its error.", min=1, rich_help_panel="Choices of a sweep"
        ),
    ] = 1,
    columns: Columns,
    query: Query,
    hvg: Variable = None,
    held_out: HeldOut = 0.1,
    training: Training,
    particles: Annotated[int, typer.Option(help="Draws a cell.", min=1, rich_help_panel="Evidence")] = 1000,
    method: Annotated[
        str | None, typer.Option(help="auto, importance, adaptive, refined, annealed", rich_help_panel="Evidence")
    ] = None,
    proposal: Annotated[
        str | None,
        typer.Option(help="Importance sampling from here: guide_draws, refined, ...", rich_help_panel="Evidence"),
    ] = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Measure how far off evidences are.", rich_help_panel="Evidence")
    ] = False,
    by: Annotated[
        str | None,
        typer.Option(help="A field whose levels are clusters of cells: batch, ...", rich_help_panel="Evidence"),
    ] = None,
    score: Annotated[
        int,
        typer.Option(help="Score about so many held-out cells, of every batch its share.", rich_help_panel="Evidence"),
    ] = 1000,
    single: Annotated[
        bool,
        typer.Option("--single", help="Score in single precision: off by some 1e-4 nats.", rich_help_panel="Evidence"),
    ] = False,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile training steps and the scoring of counts first.")
    ] = False,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Sweep: the folder of its fits, table and picture. Runs: the table.", metavar="FOLDER | CSV"),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Runs: draw the differences here.", metavar="PNG")] = None,
    report: Annotated[
        Path | None, typer.Option(help="A page with words, table and pictures, to send to somebody.", metavar="HTML")
    ] = None,
    page: OwnPages = None,
    force: Force = False,
) -> None:
    """Which model explains cells best that it was not fitted on.

    A sweep fits every combination of the choices that are declared, and again whatever is not in its folder yet:

    [bold]pyroscvi compare cells.h5ad --likelihood nb zinb --prior normal mixture:8 --latent 5 10 --out runs[/bold]

    Runs that `pyroscvi fit` has left are compared on the cells of DATA that none of them was fitted on:

    [bold]pyroscvi compare runs/nb runs/zinb --data cells.h5ad[/bold]

    Choices are written as for `pyroscvi fit`. Data come first, for a choice takes all words up to the next option.
    """
    from pyroscvi.cli.compare import compare_runs, compare_sweep, is_sweep

    slots = {
        "model": model, "guide": guide, "likelihood": likelihood, "dispersion": dispersion, "prior": prior,
        "decoder": decoder, "size": size, "condition": condition, "encoder": encoder, "latent": latent,
    }  # fmt: skip
    choices = {slot: words for slot, words in slots.items() if words}
    evidence = {"particles": particles, "seed": seed, "method": method, "certify": certify, "by": by}
    evidence |= {"single": single, "compile": compile}
    if not is_sweep(runs, data, choices):
        assert data is not None
        compare_runs(
            runs, data, score=score, evidence=evidence, proposal=proposal, out=out, picture=picture, report=report,
            reading=query.options(), pages=page, force=force,
        )  # fmt: skip
        return
    compare_sweep(
        runs[0], choices, score=score, out=out, report=report, evidence=evidence, proposal=proposal, force=force,
        fields=columns.fields(), reading=query.options(), hvg=hvg, held_out=held_out, seed=seed, seeds=seeds,
        training={**training.settings(), "compile": compile},
    )  # fmt: skip


@app.command(rich_help_panel="Run")
@grouped
def calibrate(
    run: Run,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Cells whose conditions and sizes are taken; those of training if none.", metavar="DATA.h5ad"
        ),
    ] = None,
    *,
    simulations: Annotated[int, typer.Option(help="Cells that the fit makes itself.", min=1)] = 1000,
    draws: Annotated[int, typer.Option(help="Draws of the posterior of each.", min=1)] = 99,
    raw: Annotated[bool, typer.Option("--raw", help="Look at draws of the guide alone: quicker.")] = False,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Write the table here.", metavar="CSV")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the ranks here, with bands.", metavar="PNG")] = None,
    predictive: Annotated[
        Path | None, typer.Option(help="Compare DATA with replicates of it too, and draw that here.", metavar="PNG")
    ] = None,
    query: Query,
    page: OwnPages = None,
    force: Force = False,
) -> None:
    """Are the posteriors of a run those of its model? Simulation-based calibration, raw and importance-corrected."""
    from pyroscvi.cli.calibrate import calibrate_run

    calibrate_run(
        run, data, simulations=simulations, draws=draws, corrected=not raw, seed=seed,
        out=out, picture=picture, predictive=predictive, reading=query.options(), pages=page, force=force,
    )  # fmt: skip
