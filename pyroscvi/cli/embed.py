"""``pyroscvi embed``: latents of cells, those that a run was fitted on or others."""

from pathlib import Path
from typing import Annotated, Literal

from pyroscvi.cli.app import Annotations, Data, Run, app, drawn, option
from pyroscvi.cli.grouped import grouped
from pyroscvi.cli.output import check_free, check_kind, draw
from pyroscvi.cli.using import Using, asked

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
    how: Using,
) -> None:
    """Compute the posterior mean of the latents of cells, and write it as obsm["X_pyroscvi"].

    A page without continuous latents, such as mixture, gives the probabilities of its components.
    """
    from pyroscvi.analysis import clusters as grouping
    from pyroscvi.analysis.representation import KEY, representation
    from pyroscvi.fitting.files import write_whole
    from pyroscvi.report import embedding as pictures

    check_kind(out, ".h5ad")
    check_free(out, picture, tissue, force=how.force)
    use = asked(run, data, how, annotations=annotations)
    fitted, cells, adata = use
    columns = list(color or ())
    for column in columns:
        use.column(column)  # an error says which columns there are
    key = fitted.fields.spatial or "spatial"
    if tissue is not None and key not in adata.obsm:
        raise ValueError(f"--tissue draws cells at their coordinates, and {data} has no obsm {key!r}")
    adata.obsm[KEY] = representation(fitted.fit, cells, corrected=corrected)
    lines = []
    if clusters is not None:
        grouping.neighbours_of(adata, KEY, how.seed)
        grouping.clusters(adata, clusters, how.seed)
        columns.append("pyroscvi_cluster")
        lines.append(f"{adata.obs[columns[-1]].nunique()} clusters, in obs['pyroscvi_cluster']")
    groups = adata.obs[columns[0]] if columns else None
    if picture is not None:
        place, called = f"X_{project}", PROJECTIONS[project]
        adata.obsm[place] = pictures.projection(adata.obsm[KEY], project, how.seed)
        several = {column: adata.obs[column] for column in columns}
        one = pictures.embedding(adata.obsm[place], groups, name=called) if len(several) < 2 else None
        draw(picture, one or pictures.coloured(adata.obsm[place], several, name=called))
        lines.append(f"{picture}: {called} of {len(adata):,} cells, in obsm[{place!r}]")
    if tissue is not None:
        name = fitted.fields.section
        section = None if name is None else adata.obs[name]
        draw(tissue, pictures.tissue(adata.obsm[key], groups, section))
        lines.append(f"{tissue}: {len(adata):,} cells on the tissue")
    write_whole(out, adata.write_h5ad)
    lines.append(f"{out}: {adata.obsm[KEY].shape[1]} dimensions of {len(adata):,} cells in obsm[{KEY!r}]")
    how.say({"cells": len(adata), "dimensions": adata.obsm[KEY].shape[1], "file": str(out)}, lines)
