"""``pyroscvi query``: new cells on a reference, with labels and states."""

from pathlib import Path
from typing import Annotated

from pyroscvi.cli.app import Data, Run, app, option
from pyroscvi.cli.grouped import grouped
from pyroscvi.cli.output import check_free, check_kind
from pyroscvi.cli.using import Using, asked


@app.command("query", rich_help_panel="Use")
@grouped
def query_cells(
    run: Run,
    data: Data,
    out: Annotated[Path, option("The file to write.", metavar="OUT.h5ad")],
    *,
    batch: Annotated[
        str | None,
        option(
            "What a batch that the run has not seen is: unknown; learn, to fit weights of its own for each; or the "
            "name of a known batch."
        ),
    ] = None,
    epochs: Annotated[int, option("Passes over the new cells, for learn.", min=1)] = 50,
    how: Using,
) -> None:
    """Map new cells onto a reference run: their states and, if the model knows types, their annotations.

    Genes may be in another order, extra, or missing (--missing marginalise).
    """
    from dataclasses import replace

    from pyroscvi.analysis.representation import KEY, representation
    from pyroscvi.fitting.extended import extended
    from pyroscvi.fitting.files import write_whole

    check_kind(out, ".h5ad")
    check_free(out, force=how.force)
    how = how if batch is None else replace(how, unknown="allow")
    use = asked(run, data, how, labels=False)
    fit, cells = use.run.fit, use.cells
    notes = []
    if batch == "learn":
        fit = extended(fit, use.adata, missing=how.missing, epochs=epochs, seed=how.seed, progress=not how.quiet)
        assert fit.fields is not None
        cells = replace(fit.fields, label=None, belief=None).read(use.adata, missing=how.missing, empty=how.empty)
        notes.append(f"learned weights of {', '.join(fit.record['extended']['levels'])}")
    elif batch not in (None, "unknown"):
        from pyroscvi.analysis.posterior import codes

        known = codes(fit, len(cells), {"batch": batch})["batch"]
        own = cells.categories["batch"]
        cells = replace(cells, categories={**cells.categories, "batch": own.where(own >= 0, known)})
    use.adata.obsm[KEY] = representation(fit, cells)
    result = None
    try:
        result = fit.annotate(cells, seed=how.seed)
    except ValueError as error:
        if "has no types" not in str(error):
            raise
    if result is not None:
        notes.append(result.table["annotation"].value_counts().to_string(header=False))
        for name, values in result.table.items():
            use.adata.obs[f"pyroscvi_{name}"] = values.to_numpy()
    write_whole(out, use.adata.write_h5ad)
    notes.append(f"{out}: {len(cells):,} cells, states in obsm[{KEY!r}]")
    how.say({"cells": len(cells), "annotations": None if result is None else result.table}, notes)
