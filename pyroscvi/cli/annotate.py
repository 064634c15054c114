"""``pyroscvi annotate``: the types of cells, from a run whose model knows types."""

from pathlib import Path
from typing import Annotated

from pyroscvi.cli.app import Data, Run, app, drawn, option
from pyroscvi.cli.grouped import grouped
from pyroscvi.cli.output import check_free, check_kind, draw
from pyroscvi.cli.using import Using, asked


@app.command("annotate", rich_help_panel="Use")
@grouped
def annotate(
    run: Run,
    data: Data,
    *,
    out: Annotated[
        Path | None, option("Write the annotated cells (.h5ad) or the table alone (.csv).", metavar="OUT")
    ] = None,
    truth: Annotated[str | None, option("Column of obs: true types, to score annotations with.")] = None,
    picture: Annotated[Path | None, drawn("Draw confusion matrix and reliability here; needs --truth.")] = None,
    reference: Annotated[
        Path | None,
        option(
            "An h5ad file of known cells. Those of them that the run was not fitted to show what evidence is usual. "
            "Default: cells that the fit simulates.",
            metavar="CELLS.h5ad",
        ),
    ] = None,
    threshold: Annotated[
        float, option("A cell is unknown if at most this share of known cells has so low an evidence.", min=0, max=1)
    ] = 0.01,
    particles: Annotated[int, option("Draws of the state of every cell.", min=1)] = 200,
    how: Using,
) -> None:
    """Annotate cells: the most probable type with its probability, or unknown where no type explains the cell."""
    from pyroscvi.data.reading import read
    from pyroscvi.fitting.files import write_whole

    check_kind(out, ".h5ad", ".csv")
    check_free(out, picture, force=how.force)
    if picture is not None and truth is None:
        raise ValueError("--picture compares annotations with true types: name their column with --truth")
    use = asked(run, data, how, labels=False)
    known = use.column(truth)
    usual = None if reference is None else read(reference)
    if usual is not None:
        usual = usual[~usual.obs_names.isin(use.run.fitted_on)]
        if not usual.n_obs:
            raise ValueError(f"the run was fitted to every cell of {reference}: give cells that were held out of it")
    fit = use.run.fit
    result = fit.annotate(use.cells, reference=usual, unknown=threshold, particles=particles, seed=how.seed)
    scores = {} if known is None else result.scores(known)
    if picture is not None:
        from pyroscvi.report.annotation import annotated

        draw(picture, annotated(result, known))
    if out is not None:
        if out.suffix == ".h5ad":
            for name, values in result.table.items():
                use.adata.obs[f"pyroscvi_{name}"] = values.to_numpy()
            use.adata.obsm["pyroscvi_probabilities"] = result.probabilities.set_axis(use.adata.obs_names)
            write_whole(out, use.adata.write_h5ad)
        else:
            write_whole(out, result.table.join(result.probabilities.add_prefix("p ")).to_csv)
    lines = [
        f"{len(result.table):,} cells, compared with {result.reference}",
        result.table["annotation"].value_counts().to_string(header=False),
        *(f"{name.replace('_', ' ')}: {value:.4g}" for name, value in scores.items()),
    ]
    how.say({"cells": result.table, "scores": scores}, lines, annotations=out, picture=picture)
