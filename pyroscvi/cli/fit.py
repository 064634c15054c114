"""``pyroscvi fit``: from an h5ad file to a run folder."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from pyroscvi import __version__
from pyroscvi.cli.app import (
    KINDS,
    MAX_SEED,
    Annotations,
    Force,
    HeldOut,
    Json,
    Quiet,
    SplitBy,
    app,
    in_data,
    in_training,
    option,
)
from pyroscvi.cli.grouped import Columns, Files, Genes, Slots, Training, grouped
from pyroscvi.cli.output import say


@app.command("fit", rich_help_panel="Run")
@grouped
def fit(
    data: Annotated[
        Path,
        typer.Argument(
            help=f"{KINDS} Counts of zarr stores, of batch files and of folders of files stay on disk.", metavar="DATA"
        ),
    ],
    out: Annotated[Path, option("The folder to write.", metavar="RUN")],
    *,
    slots: Slots,
    columns: Columns,
    reading: Files,
    genes: Genes,
    annotations: Annotations = None,
    label_tree: Annotated[
        Path | None,
        in_data(
            "A file of types and their parents. A --label that is a parent means: one of the types below it.",
            metavar="TREE.tsv",
        ),
    ] = None,
    known: Annotated[
        Path | None,
        in_data(
            "Known before: for deconvolution annotated cells, whose types are in --known-types; for ambient all "
            "droplets, before cells were called.",
            metavar="CELLS",
        ),
    ] = None,
    known_types: Annotated[str | None, in_data("Column of obs of --known: the type of every cell.")] = None,
    backed: Annotated[
        bool, in_data("Read counts from disk as they are needed, where they do not fit in memory.", "--backed")
    ] = False,
    held_out: HeldOut = 0.1,
    split_by: SplitBy = None,
    training: Training,
    scale_lr: Annotated[bool, in_training("Scale --lr with the square root of --batch-size.", "--scale-lr")] = False,
    compile: Annotated[
        bool | None,
        in_training("Compile the training step (default: for long fits, which it makes faster).", "--compile/--eager"),
    ] = None,
    keep_every: Annotated[
        int | None, in_training("Keep the fit after every so many epochs, in RUN/kept.", min=1, metavar="EPOCHS")
    ] = None,
    tensorboard: Annotated[
        bool, in_training("Write event files for TensorBoard to RUN/events.", "--tensorboard")
    ] = False,
    seed: Annotated[int, in_training("Seed of all random numbers.", min=0, max=MAX_SEED)] = 0,
    json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Fit a model to cells, and write a run folder: the fit, its configuration, history and latents.

    Parts have the names of their Python classes in snake case. Their fields follow after colons:
    --prior mixture:8 is Mixture(components=8), and --model gmvae:kinds=12 is GMVAE(kinds=12).
    """
    from pyroscvi.cli.data import fitting_cells, split_off
    from pyroscvi.cli.declare import declare, own_files
    from pyroscvi.cli.runs import carry_out, check_folder, judged_by, open_folder, write_run
    from pyroscvi.fitting.observers import Checkpoints, Observer, TensorBoard
    from pyroscvi.fitting.symptoms import symptoms
    from pyroscvi.inference.distributed import Ranks

    model, guide = declare(**vars(slots))
    own = own_files(slots.model, slots.guide)
    how = {"scale_lr": scale_lr, "compile": "auto" if compile is None else compile, "seed": seed}
    fields, settings = columns.fields(), {**training.settings(), **how}
    asked = {
        "data": str(data), "model": repr(model), "guide": repr(guide), "pages": [file.name for file in own],
        "fields": {name: value for name, value in fields.items() if value}, "reading": vars(reading),
        "genes": vars(genes), "annotations": annotations, "label_tree": label_tree, "known": known,
        "known_types": known_types, "held_out": held_out, "split_by": split_by,
        "training": {**settings, "early_stopping": repr(settings["early_stopping"])}, "pyroscvi": __version__,
    }  # fmt: skip
    ranks = Ranks.here()  # of processes that torchrun started, the first one alone writes
    ranks.from_first(lambda: check_folder(out, asked, force))
    cells, obs = fitting_cells(data, fields, vars(reading), genes, annotations, label_tree, backed, seed)
    seen, unseen = split_off(cells, obs, held_out, None, split_by, seed) if held_out else (cells, None)

    if known is not None:
        from pyroscvi.cli.known import known as with_known

        model = with_known(model, known, known_types, seen, counts=columns.counts, seed=seed)

    def begin() -> None:
        open_folder(out, asked, force)
        for file in own:
            shutil.copy(file, out / file.name)

    ranks.from_first(begin)
    observers: list[Observer] = [] if keep_every is None else [Checkpoints(out / "kept", keep_every)]
    observers += [TensorBoard(out / "events")] if tensorboard else []
    looks = {"observers": observers, "progress": not quiet}
    fitted = carry_out(out, model, guide, seen, **looks, **settings, **judged_by(unseen, settings))
    z = ranks.from_first(lambda: write_run(out, fitted, cells, obs, unseen))
    if ranks.first and z is not None:
        for symptom in symptoms(fitted, z):
            say(f"pyroscvi: {symptom}", sys.stderr)
    if ranks.first and json:
        say((out / "run.json").read_text("utf-8"))
    elif ranks.first and not quiet:
        say(f"{out}: {fitted!r}")
