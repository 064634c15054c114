"""``pyroscvi embed``: latents of cells, those that a run was fitted on or others."""

from pathlib import Path
from typing import Annotated

from pyroscvi.cli.app import Annotations, Data, ForceFiles, OwnPages, Run, app, drawn, option
from pyroscvi.cli.grouped import Query, grouped
from pyroscvi.cli.output import check_free, draw, say
from pyroscvi.names import among


@app.command("embed", rich_help_panel="Run")
@grouped
def embed(
    run: Run,
    data: Data,
    out: Annotated[Path, option("The file to write.", metavar="OUT.h5ad")],
    *,
    picture: Annotated[Path | None, drawn("Draw a UMAP of the latents here.")] = None,
    tissue: Annotated[Path | None, drawn("Draw the cells on the tissue here, a panel for each section.")] = None,
    color: Annotated[str | None, option("A column of obs, for the pictures.")] = None,
    corrected: Annotated[
        bool, option("Means of the exact posterior, by importance sampling from the guide: slower.", "--corrected")
    ] = False,
    annotations: Annotations = None,
    query: Query,
    page: OwnPages = None,
    force: ForceFiles = False,
) -> None:
    """Compute the posterior mean of the latents of cells, and write it as obsm["X_pyroscvi"].

    A page without continuous latents, such as mixture, gives the probabilities of its components.
    """
    from pyroscvi.analysis.representation import representation
    from pyroscvi.cli.runs import KEY, read_run
    from pyroscvi.data.reading import read
    from pyroscvi.fitting.files import write_whole
    from pyroscvi.report import embedding as pictures

    check_free(out, picture, tissue, force=force)
    fitted = read_run(run, page or ())
    adata = read(data, annotations)
    column = None if color is None else among(color, {name: name for name in adata.obs}, "column of obs")
    key = fitted.fields.spatial or "spatial"
    if tissue is not None and key not in adata.obsm:
        raise ValueError(f"--tissue draws cells at their coordinates, and {data} has no obsm {key!r}")
    cells = fitted.fields.read(adata, **vars(query))
    adata = adata[cells.names].copy() if len(cells) < len(adata) else adata
    adata.obsm[KEY] = representation(fitted.fit, cells, corrected=corrected)
    groups = None if column is None else adata.obs[column]
    if picture is not None:
        adata.obsm["X_umap"] = pictures.projection(adata.obsm[KEY])
        draw(picture, pictures.embedding(adata.obsm["X_umap"], groups))
        say(f"{picture}: UMAP of {len(adata):,} cells, in obsm['X_umap']")
    if tissue is not None:
        name = fitted.fields.section
        section = None if name is None else adata.obs[name]
        draw(tissue, pictures.tissue(adata.obsm[key], groups, section))
        say(f"{tissue}: {len(adata):,} cells on the tissue")
    write_whole(out, adata.write_h5ad)
    say(f"{out}: {adata.obsm[KEY].shape[1]} dimensions of {len(adata):,} cells in obsm[{KEY!r}]")
