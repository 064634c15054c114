"""``pyroscvi proportions``: what each spot or cell is made of, from a run of the page deconvolution or topics."""

from pathlib import Path
from typing import Annotated, Any

from pyroscvi.cli.app import Corrected, Data, Run, app, option
from pyroscvi.cli.grouped import grouped
from pyroscvi.cli.output import check_free, check_kind
from pyroscvi.cli.using import Using, asked


@app.command("proportions", rich_help_panel="Use")
@grouped
def proportions(
    run: Run,
    data: Data,
    out: Annotated[Path, option("The file to write.", metavar="OUT.h5ad")],
    *,
    samples: Annotated[int, option("Posterior samples to average over.", min=1)] = 100,
    corrected: Corrected = False,
    how: Using,
) -> None:
    """Find the proportions of types or topics in every spot or cell, and the probability that each type is present.

    The probability that a type is present is for a model whose prior has absent types, such as deconvolution.
    """
    import pandas as pd

    from pyroscvi.fitting.files import write_whole
    from pyroscvi.report.numbers import as_text

    check_kind(out, ".h5ad")
    check_free(out, force=how.force)
    use = asked(run, data, how)
    fit = use.run.fit
    options: dict[str, Any] = {"corrected": corrected, "seed": how.seed}
    tables = {"proportions": fit.proportions(use.cells, samples, **options)}
    if hasattr(fit.model.prior, "presence"):
        tables["presence"] = fit.presence(use.cells, samples, **options)
    for name, table in tables.items():
        use.adata.obsm[f"pyroscvi_{name}"] = table.set_axis(use.adata.obs_names)
    write_whole(out, use.adata.write_h5ad)
    means = pd.DataFrame({name: table.mean() for name, table in tables.items()})
    lines = ["means over cells", as_text(means)]
    where = " and ".join(f"obsm['pyroscvi_{name}']" for name in tables)
    how.say({"cells": len(use.cells), "means": means}, [*lines, f"{out}: tables in {where}"])
