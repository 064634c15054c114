"""``pyroscvi embed``: latents of cells, those that a run was fitted on or others."""

from pathlib import Path
from typing import Annotated, Literal

from pyroscvi.cli.app import Annotations, Data, ForceFiles, OwnPages, Run, app, drawn, option
from pyroscvi.cli.grouped import Query, grouped
from pyroscvi.cli.output import check_free, draw, say
from pyroscvi.names import among

PROJECTIONS = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PCA"}


@app.command("embed", rich_help_panel="Run")
@grouped
def embed(
    run: Run,
    data: Data,
    out: Annotated[Path, option("The file to write.", metavar="OUT.h5ad")],
    *,
    picture: Annotated[Path | None, drawn("Draw the latents in two dimensions here.")] = None,
    project: Annotated[
        Literal["umap", "tsne", "pca"], option("How they are brought to two dimensions, in obsm, too.")
    ] = "umap",
    clusters: Annotated[
        float | None, option("Find Leiden clusters at this resolution, such as 1.", metavar="RESOLUTION")
    ] = None,
    tissue: Annotated[Path | None, drawn("Draw the cells on the tissue here, a panel for each section.")] = None,
    color: Annotated[list[str] | None, option("A column of obs, for the pictures. May be repeated.")] = None,
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
    from pyroscvi.analysis import clusters as grouping
    from pyroscvi.analysis.representation import KEY, representation
    from pyroscvi.cli.runs import read_run
    from pyroscvi.data.reading import read
    from pyroscvi.fitting.files import write_whole
    from pyroscvi.report import embedding as pictures

    check_free(out, picture, tissue, force=force)
    fitted = read_run(run, page or ())
    adata = read(data, annotations)
    columns = [among(name, {name: name for name in adata.obs}, "column of obs") for name in color or ()]
    key = fitted.fields.spatial or "spatial"
    if tissue is not None and key not in adata.obsm:
        raise ValueError(f"--tissue draws cells at their coordinates, and {data} has no obsm {key!r}")
    cells = fitted.fields.read(adata, **vars(query))
    adata = adata[cells.names].copy() if len(cells) < len(adata) else adata
    adata.obsm[KEY] = representation(fitted.fit, cells, corrected=corrected)
    if clusters is not None:
        grouping.neighbours_of(adata, KEY)
        grouping.clusters(adata, clusters)
        columns.append("pyroscvi_cluster")
        say(f"{adata.obs[columns[-1]].nunique()} clusters, in obs['pyroscvi_cluster']")
    groups = adata.obs[columns[0]] if columns else None
    if picture is not None:
        place, called = f"X_{project}", PROJECTIONS[project]
        adata.obsm[place] = pictures.projection(adata.obsm[KEY], project)
        several = {column: adata.obs[column] for column in columns}
        one = pictures.embedding(adata.obsm[place], groups, name=called) if len(several) < 2 else None
        draw(picture, one or pictures.coloured(adata.obsm[place], several, name=called))
        say(f"{picture}: {called} of {len(adata):,} cells, in obsm[{place!r}]")
    if tissue is not None:
        name = fitted.fields.section
        section = None if name is None else adata.obs[name]
        draw(tissue, pictures.tissue(adata.obsm[key], groups, section))
        say(f"{tissue}: {len(adata):,} cells on the tissue")
    write_whole(out, adata.write_h5ad)
    say(f"{out}: {adata.obsm[KEY].shape[1]} dimensions of {len(adata):,} cells in obsm[{KEY!r}]")
