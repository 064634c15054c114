"""``pyroscvi proteins``: surface proteins of cells, denoised or predicted, from a run of the page proteins."""

from pathlib import Path
from typing import Annotated

from pyroscvi.cli.app import Corrected, Data, Run, app, option
from pyroscvi.cli.generate import Given
from pyroscvi.cli.grouped import grouped
from pyroscvi.cli.output import check_free, check_kind
from pyroscvi.cli.using import Using, asked, conditions


@app.command("proteins", rich_help_panel="Use")
@grouped
def proteins(
    run: Run,
    data: Data,
    out: Annotated[Path, option("The file to write.", metavar="OUT.h5ad")],
    *,
    given: Given = None,
    samples: Annotated[int, option("Posterior samples to average over.", min=1)] = 10,
    corrected: Corrected = False,
    how: Using,
) -> None:
    """Denoise the surface proteins of cells, and predict those that were not measured: three tables in obsm.

    Cells of a batch without proteins need one with proteins, such as --given batch=cite.
    """
    import pandas as pd

    from pyroscvi.fitting.files import write_whole
    from pyroscvi.report.numbers import as_text

    check_kind(out, ".h5ad")
    check_free(out, force=how.force)
    use = asked(run, data, how)
    tables = use.run.fit.proteins(
        use.cells, given=conditions(given), samples=samples, corrected=corrected, seed=how.seed
    )._asdict()
    for name, table in tables.items():
        use.adata.obsm[f"pyroscvi_protein_{name}"] = table.set_axis(use.adata.obs_names)
    write_whole(out, use.adata.write_h5ad)
    means = pd.DataFrame({name: table.mean() for name, table in tables.items()})
    lines = ["means over cells", as_text(means)]
    how.say({"cells": len(use.cells), "means": means}, [*lines, f"{out}: tables in obsm['pyroscvi_protein_...']"])
