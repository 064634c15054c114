"""``pyroscvi generate``, ``denoise`` and ``decontaminate``: counts of new cells, and expected counts of given ones."""

from pathlib import Path
from typing import Annotated

from pyroscvi.cli.app import Corrected, Data, Run, app, option
from pyroscvi.cli.grouped import grouped
from pyroscvi.cli.output import check_free, check_kind
from pyroscvi.cli.using import Using, asked, conditions

Given = Annotated[
    list[str] | None, option("A condition of the cells, as FIELD=VALUE. May be repeated.", metavar="FIELD=VALUE")
]


@app.command("generate", rich_help_panel="Use")
@grouped
def generate(
    run: Run,
    out: Annotated[Path, option("The file to write.", metavar="OUT.h5ad")],
    *,
    n: Annotated[int, option("Number of cells.", "-n", "--cells", min=1)] = 1000,
    given: Given = None,
    real: Annotated[
        Path | None,
        option("An h5ad file of real cells: say how much like those under the same conditions the new cells are."),
    ] = None,
    how: Using,
) -> None:
    """Generate counts of new cells; conditions that are not given vary as in training."""
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    from pyroscvi.calibration.realism import realism
    from pyroscvi.cli.runs import read_run
    from pyroscvi.fitting.files import write_whole
    from pyroscvi.report.numbers import as_text

    check_kind(out, ".h5ad")
    check_free(out, force=how.force)
    fitted, values = read_run(run, how.page or ()), conditions(given)
    counts = fitted.fit.generate(n=n, given=values, seed=how.seed)
    obs = pd.DataFrame({name: [value] * n for name, value in values.items()}, [f"generated{i}" for i in range(n)])
    made = AnnData(sparse.csr_matrix(counts.astype("float32")), obs, pd.DataFrame(index=list(fitted.fit.genes)))
    table = None
    if real is not None:
        cells = asked(run, real, how).cells
        levels = {name: fitted.fit.levels[name].index(str(v)) for name, v in values.items() if name in cells.categories}
        alike = sum(((cells.categories[name] != code).long() for name, code in levels.items()), 0 * cells.library[:, 0])
        if not (alike == 0).any():
            raise ValueError(f"{real} has no cell under {' '.join(given or ())} to compare with")
        table = realism(cells.subset(alike == 0).x.numpy(), counts, how.seed)
    write_whole(out, made.write_h5ad)
    lines = [] if table is None else [as_text(table.rename_axis(index=None)) + "\n"]
    how.say({"cells": n, "realism": table}, [*lines, f"{out}: {n:,} cells of {counts.shape[1]:,} genes"])


@app.command("denoise", rich_help_panel="Use")
@grouped
def denoise(
    run: Run,
    data: Data,
    out: Annotated[Path, option("The file to write.", metavar="OUT.h5ad")],
    *,
    layer: Annotated[str, option("The layer that is written.")] = "denoised",
    given: Given = None,
    average: Annotated[str | None, option("A field to average over, such as batch.")] = None,
    library: Annotated[float | None, option("Scale the rates of each cell to this sum. Default: its size.")] = None,
    samples: Annotated[int, option("Posterior samples to average over.", min=1)] = 10,
    corrected: Corrected = False,
    how: Using,
) -> None:
    """Replace counts by their posterior mean rates: a layer of the genes that the run knows."""
    from pyroscvi.fitting.files import write_whole

    check_kind(out, ".h5ad")
    check_free(out, force=how.force)
    use = asked(run, data, how)
    adata = use.adata[:, use.adata.var_names.isin(use.run.fit.genes)].copy()
    rates = use.run.fit.denoise(
        use.cells, given=conditions(given), average=average, library=library, samples=samples, corrected=corrected,
        seed=how.seed, genes=list(adata.var_names),
    )  # fmt: skip
    adata.layers[layer] = rates
    write_whole(out, adata.write_h5ad)
    line = f"{out}: rates of {rates.shape[1]:,} genes in {rates.shape[0]:,} cells, in layers[{layer!r}]"
    how.say({"cells": rates.shape[0], "genes": rates.shape[1], "layer": layer}, [line])


@app.command("decontaminate", rich_help_panel="Use")
@grouped
def decontaminate(
    run: Run,
    data: Data,
    out: Annotated[Path, option("The file to write.", metavar="OUT.h5ad")],
    *,
    layer: Annotated[str, option("The layer that is written.")] = "decontaminated",
    samples: Annotated[int, option("Posterior samples to average over.", min=1)] = 10,
    how: Using,
) -> None:
    """Remove counts of the liquid around cells: a layer of the genes that a run of the page ambient knows."""
    import pandas as pd

    from pyroscvi.fitting.files import write_whole

    check_kind(out, ".h5ad")
    check_free(out, force=how.force)
    use = asked(run, data, how)
    genes = pd.Index(use.run.fit.genes)
    adata = use.adata[:, use.adata.var_names.isin(genes)].copy()
    own = use.run.fit.decontaminated(use.cells, samples=samples, seed=how.seed)
    removed = 1 - own.sum(1) / use.cells.x.sum(1).numpy()
    adata.layers[layer], adata.obs["pyroscvi_ambient"] = own[:, genes.get_indexer(adata.var_names)], removed
    write_whole(out, adata.write_h5ad)
    line = f"{out}: {removed.mean():.1%} of the counts of a cell removed on average, in layers[{layer!r}]"
    how.say({"cells": len(removed), "genes": adata.n_vars, "layer": layer, "removed": removed.mean()}, [line])
