"""The grammar of the command line: every command with its arguments and options."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    name="pyroscvi",
    help="A zoo of probabilistic programs for single-cell and spatial counts.",
    epilog="Start with [bold]pyroscvi demo[/bold], and read a page with [bold]pyroscvi show scvi[/bold].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def complete_page(incomplete: str) -> list[tuple[str, str]]:
    from pyroscvi.cli.pages import pages

    return [(page.name, page.headline) for page in pages().values() if page.name.startswith(incomplete)]


def complete_model(incomplete: str) -> list[tuple[str, str]]:
    return _complete("models", incomplete)


def complete_guide(incomplete: str) -> list[tuple[str, str]]:
    return _complete("guides", incomplete)


def _complete(kind: str, incomplete: str) -> list[tuple[str, str]]:
    from pyroscvi.cli.pages import pages

    return [(p.name, p.headline) for p in pages().values() if p.kind == kind and p.name.startswith(incomplete)]


PageName = Annotated[str, typer.Argument(help="A name that `pyroscvi list` prints.", autocompletion=complete_page)]
Data = Annotated[Path, typer.Argument(help="An h5ad file.", metavar="DATA.h5ad")]
Run = Annotated[Path, typer.Argument(help="A folder that `pyroscvi fit` wrote.", metavar="RUN")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]
OwnPages = Annotated[
    list[Path] | None, typer.Option(help="A file of your own that a run was fitted with.", metavar="FILE.py")
]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]


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
def fit(
    data: Annotated[
        Path, typer.Argument(help="An h5ad file; or zarr, or a folder of files, left on disk.", metavar="DATA.h5ad")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.", metavar="RUN")],
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
    counts: Annotated[
        str | None, typer.Option(help="The layer with counts; X if none.", rich_help_panel="Data")
    ] = None,
    batch: Annotated[str | None, typer.Option(help="A column of obs.", rich_help_panel="Data")] = None,
    label: Annotated[str | None, typer.Option(help="A column of obs.", rich_help_panel="Data")] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="More categorical columns; may be repeated.", rich_help_panel="Data")
    ] = None,
    covariate: Annotated[
        list[str] | None, typer.Option(help="Continuous columns; may be repeated.", rich_help_panel="Data")
    ] = None,
    size_factor: Annotated[str | None, typer.Option(help="A column of obs.", rich_help_panel="Data")] = None,
    spatial: Annotated[str | None, typer.Option(help="A key of obsm: coordinates.", rich_help_panel="Data")] = None,
    section: Annotated[
        str | None, typer.Option(help="A column of obs: tissue sections.", rich_help_panel="Data")
    ] = None,
    hvg: Annotated[
        int | None,
        typer.Option(help="Keep this many variable genes, by Pearson residuals.", min=2, rich_help_panel="Data"),
    ] = None,
    backed: Annotated[
        bool,
        typer.Option(
            "--backed", help="Leave the counts on disk: a file need not fit in memory.", rich_help_panel="Data"
        ),
    ] = False,
    held_out: Annotated[
        float, typer.Option(help="Fraction of cells kept from the fit, to compare on.", rich_help_panel="Data")
    ] = 0.1,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the cells.", min=1, rich_help_panel="Training")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Cells a minibatch.", min=1, rich_help_panel="Training")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate.", min=0, rich_help_panel="Training")] = 3e-3,
    scale_lr: Annotated[
        bool, typer.Option("--scale-lr", help="Make --lr larger with --batch-size.", rich_help_panel="Training")
    ] = False,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the training step first.", rich_help_panel="Training")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps", rich_help_panel="Training")] = "auto",
    seed: Annotated[int, typer.Option(help="Same seed, same result.", rich_help_panel="Training")] = 0,
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
    fields = {
        "counts": counts,
        "batch": batch,
        "label": label,
        "categories": tuple(category or ()),
        "covariates": tuple(covariate or ()),
        "size_factor": size_factor,
        "spatial": spatial,
        "section": section,
    }
    training = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "scale_lr": scale_lr,
        "compile": compile,
        "device": device,
        "seed": seed,
    }
    fit_run(
        data, out, model=model, guide=guide, slots=slots, encoder=encoder, fields=fields,
        hvg=hvg, held_out=held_out, training=training, backed=backed, force=force,
    )  # fmt: skip


@app.command(rich_help_panel="Run")
def embed(
    run: Run,
    data: Data,
    out: Annotated[Path, typer.Option(help="The file to write.", metavar="OUT.h5ad")],
    picture: Annotated[Path | None, typer.Option(help="Draw a UMAP of the latents here.", metavar="PNG")] = None,
    color: Annotated[str | None, typer.Option(help="A column of obs, for the picture.")] = None,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="Means of the posterior itself, not of the guide: slower.")
    ] = False,
    page: OwnPages = None,
    force: Force = False,
) -> None:
    """Read cells with a fit: posterior means of their latents, as obsm["X_pyroscvi"]."""
    from pyroscvi.cli.embed import embed_run

    embed_run(run, data, out, picture=picture, color=color, corrected=corrected, pages=page, force=force)


@app.command(rich_help_panel="Run")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `pyroscvi fit` wrote.", metavar="RUN RUN ...")],
    data: Annotated[Path, typer.Option(help="An h5ad file.", metavar="DATA.h5ad")],
    particles: Annotated[int, typer.Option(help="Draws a cell.", min=1)] = 1000,
    seed: Seed = 0,
    proposal: Annotated[
        str | None, typer.Option(help="Where to draw from: guide_draws, refined (closer, and slower), ...")
    ] = None,
    by: Annotated[str | None, typer.Option(help="A field whose levels are clusters of cells: batch, ...")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table here.", metavar="CSV")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the differences here.", metavar="PNG")] = None,
    page: OwnPages = None,
    force: Force = False,
) -> None:
    """Which run explains held-out cells better: the cells of DATA that none of the runs was fitted on."""
    from pyroscvi.cli.compare import compare_runs

    compare_runs(
        runs, data, particles=particles, seed=seed, proposal=proposal, by=by,
        out=out, picture=picture, pages=page, force=force,
    )  # fmt: skip


@app.command(rich_help_panel="Run")
def calibrate(
    run: Run,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Cells whose conditions and sizes are taken; those of training if none.", metavar="DATA.h5ad"
        ),
    ] = None,
    simulations: Annotated[int, typer.Option(help="Cells that the fit makes itself.", min=1)] = 1000,
    draws: Annotated[int, typer.Option(help="Draws of the posterior of each.", min=1)] = 99,
    raw: Annotated[bool, typer.Option("--raw", help="Look at draws of the guide alone: quicker.")] = False,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Write the table here.", metavar="CSV")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the ranks here, with bands.", metavar="PNG")] = None,
    predictive: Annotated[
        Path | None, typer.Option(help="Compare DATA with replicates of it too, and draw that here.", metavar="PNG")
    ] = None,
    page: OwnPages = None,
    force: Force = False,
) -> None:
    """Are the posteriors of a run those of its model? Simulation-based calibration, raw and importance-corrected."""
    from pyroscvi.cli.calibrate import calibrate_run

    calibrate_run(
        run, data, simulations=simulations, draws=draws, corrected=not raw, seed=seed,
        out=out, picture=picture, predictive=predictive, pages=page, force=force,
    )  # fmt: skip
