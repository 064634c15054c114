"""``pyroscvi compare``: which of several models best explains cells that none of them was fitted to.

The models are finished run folders (``cli.compare_runs``), or a sweep (``cli.sweep``), which is declared and fitted
first.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from pyroscvi.cli.app import Annotations, Force, HeldOut, Json, OwnPages, Quiet, Seed, SplitBy, app, drawn, option
from pyroscvi.cli.grouped import Choices, Columns, Genes, Query, Several, Training, grouped, panel
from pyroscvi.cli.output import say
from pyroscvi.cli.using import as_json

in_evidence, in_choices = map(panel, ("Evidence", "Choices of a sweep"))
OF_SWEEPS = ("seeds", "held_out", "split_by", *(f.name for group in (Columns, Genes, Training) for f in fields(group)))
OF_RUNS = ("missing", "page")


@app.command("compare", cls=Several, rich_help_panel="Run")
@grouped
def compare(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="One data set for a sweep, or run folders.", metavar="DATA | RUN RUN ..."),
    ] = None,
    *,
    context: typer.Context,
    data: Annotated[Path | None, option("For run folders: the cells to compare on.", metavar="DATA")] = None,
    choices: Choices,
    seeds: Annotated[
        int, in_choices("Number of fits of each model, with different seeds. One seed tells no models apart.", min=1)
    ] = 3,
    columns: Columns,
    query: Query,
    genes: Genes,
    annotations: Annotations = None,
    held_out: HeldOut = 0.1,
    split_by: SplitBy = None,
    training: Training,
    particles: Annotated[int, in_evidence("Draws of a cell, at most.", min=1)] = 10_000,
    method: Annotated[
        str | None, in_evidence("Estimator of the evidence: auto, importance, adaptive, refined, annealed")
    ] = None,
    proposal: Annotated[str | None, in_evidence("Proposal of importance sampling: guide_draws, refined, ...")] = None,
    certify: Annotated[bool, in_evidence("Bound the error of each evidence.", "--certify")] = False,
    by: Annotated[
        str | None, in_evidence("Field whose levels are independent clusters of cells, for standard errors: batch, ...")
    ] = None,
    budget: Annotated[
        float | None, in_evidence("Seconds: score cells until all verdicts are clear, or the time is over.")
    ] = None,
    score: Annotated[int, in_evidence("Number of held-out cells to compare on, of every batch in proportion.")] = 1000,
    single: Annotated[
        bool,
        in_evidence("Compute the evidence in single precision, however large its errors.", "--single"),
    ] = False,
    compile: Annotated[
        bool | None, option("Compile training steps and the evidence (default: where it pays).", "--compile/--eager")
    ] = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None, option("Sweep: the folder to write. Run folders: the table to write.", metavar="FOLDER | CSV")
    ] = None,
    picture: Annotated[Path | None, drawn("Draw the differences here.")] = None,
    report: Annotated[
        Path | None, option("Write a report here: text, table and pictures in one file.", metavar="HTML")
    ] = None,
    page: OwnPages = None,
    json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Compare models by the evidence of cells that they were not fitted to.

    A sweep fits every combination of the choices, except those that its folder already has, and compares them:

    [bold]pyroscvi compare cells.h5ad --likelihood nb zinb --prior normal mixture:8 --latent 5 10 --out runs[/bold]

    Run folders of `pyroscvi fit` are compared on those cells of --data that none of them was fitted to:

    [bold]pyroscvi compare runs/nb runs/zinb --data cells.h5ad[/bold]

    Folders that differ by their seed alone are one model with several seeds. Choices are written as for `pyroscvi fit`.
    The data come first: an option with choices takes all words after it.
    """
    from pyroscvi.cli.compare_runs import compare_runs, evidence_options
    from pyroscvi.cli.sweep import compare_sweep

    choice = {slot: words for slot, words in vars(choices).items() if words}
    places = runs or []
    _check_places(places, data, choice)
    for name in OF_RUNS if data is None else OF_SWEEPS:
        if context.get_parameter_source(name).name == "COMMANDLINE":  # type: ignore[union-attr]
            what = (
                "run folders: a sweep has no use for it" if data is None else "a sweep: run folders are fitted already"
            )
            raise ValueError(f"--{name.replace('_', '-')} is for {what}")
    compiling: Any = "auto" if compile is None else compile
    evidence = evidence_options(
        single,
        method,
        proposal,
        particles=particles,
        seed=seed,
        certify=certify,
        by=by,
        budget=budget,
        compile=compiling,
    )
    written: dict[str, Any] = {"out": out, "picture": picture, "report": report, "force": force}
    evidence["progress"] = not quiet
    with ExitStack() as stack:
        if quiet:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        elif json:  # lines for people go elsewhere
            stack.enter_context(redirect_stdout(sys.stderr))
        if data is not None:
            reading = vars(query)
            more: dict[str, Any] = {"annotations": annotations, "pages": page or ()}
            comparison = compare_runs(places, data, reading, score, evidence, **more, **written)
        else:
            how = {**training.settings(), "compile": compiling, "progress": not quiet}
            comparison = compare_sweep(
                places[0], choice, columns.fields(), vars(query), genes, held_out, score, seed, seeds, how, evidence,
                annotations=annotations, split_by=split_by, **written,
            )  # fmt: skip
    if json:
        say(as_json(comparison.table.rename_axis("fit").reset_index()))


def _check_places(places: Sequence[Path], data: Path | None, choices: Mapping[str, Sequence[str]]) -> None:
    """ValueError unless these are run folders with --data, or the data of a sweep with choices."""
    sweep = "pyroscvi compare DATA.h5ad --likelihood nb zinb --out RUNS"
    if not places:
        last = next((words[-1] for words in choices.values() if Path(words[-1]).suffix), None)
        taken = f", and {last} was taken for one" if last else ""
        raise ValueError(f"the data come first, because an option takes all choices after it{taken}: {sweep}")
    if data is not None and choices:
        slot = next(iter(choices)).replace("_", "-")
        raise ValueError(f"--data is for run folders, and --{slot} declares a sweep, whose data come first: {sweep}")
    if data is None and not choices and all(place.is_dir() for place in places):
        raise ValueError("Missing option '--data': the cells to compare these runs on")
    if data is None and not choices:
        raise ValueError("nothing to choose from: give choices, --likelihood nb zinb, or runs with --data DATA.h5ad")
    if choices and len(places) != 1:
        named = ", ".join(map(str, places))
        raise ValueError(f"a sweep takes one data set, not {len(places)}: {named}")
