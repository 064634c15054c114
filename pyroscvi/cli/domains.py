"""``pyroscvi domains``: the domain of every cell of a tissue, from a run of the page domains."""

from pathlib import Path
from typing import Annotated

from pyroscvi.cli.app import Data, Run, app, drawn, option
from pyroscvi.cli.grouped import grouped
from pyroscvi.cli.output import check_free, check_kind, draw
from pyroscvi.cli.using import Using, asked

KEY = "pyroscvi_domain"


@app.command("domains", rich_help_panel="Use")
@grouped
def domains(
    run: Run,
    data: Data,
    out: Annotated[Path, option("The file to write.", metavar="OUT.h5ad")],
    *,
    tissue: Annotated[Path | None, drawn("Draw the domains on the tissue here, a panel for each section.")] = None,
    how: Using,
) -> None:
    """Find the domain of every cell, for obs, and the probabilities of all domains, for obsm."""
    from pyroscvi.fitting.files import write_whole
    from pyroscvi.report import embedding as pictures

    check_kind(out, ".h5ad")
    check_free(out, tissue, force=how.force)
    use = asked(run, data, how)
    found = use.run.fit.domains(use.cells)
    adata = use.adata
    adata.obs[KEY] = found.idxmax(axis=1).astype("category").to_numpy()
    adata.obsm[KEY] = found.to_numpy()
    if tissue is not None:
        fields = use.run.fields
        draw(tissue, pictures.tissue(adata.obsm[fields.spatial], adata.obs[KEY], use.column(fields.section)))
    write_whole(out, adata.write_h5ad)
    sizes = adata.obs[KEY].value_counts()
    line = f"{out}: {len(sizes)} domains, of {sizes.max():,} to {sizes.min():,} cells, in obs[{KEY!r}]"
    how.say({"domains": sizes.to_dict()}, [line])
