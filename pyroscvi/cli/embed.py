"""``pyroscvi embed``: latents of cells, those that a run was fitted on or others."""

from pathlib import Path
from typing import Any

import numpy as np

from pyroscvi.cli.data import read_data
from pyroscvi.cli.output import check_free, draw, say
from pyroscvi.cli.runs import KEY, read_run
from pyroscvi.fitting.files import write_whole
from pyroscvi.names import among
from pyroscvi.report.embedding import embedding, tissue, umap

__all__ = ["embed_run"]


def embed_run(
    run: Path,
    data: Path,
    out: Path,
    *,
    picture: Path | None = None,
    tissue_picture: Path | None = None,
    color: str | None = None,
    corrected: bool = False,
    reading: dict[str, Any] | None = None,
    pages: list[Path] | None = None,
    force: bool = False,
) -> None:
    check_free(out, picture, tissue_picture, force=force)
    fitted = read_run(run, pages or ())
    adata = read_data(data)
    column = None if color is None else among(color, {name: name for name in adata.obs}, "column of obs")
    key = fitted.fields.spatial or "spatial"
    if tissue_picture is not None and key not in adata.obsm:
        raise ValueError(f"--tissue draws cells at their coordinates, and {data} has no obsm {key!r}")
    cells = fitted.fields.read(adata, **(reading or {}))
    adata = adata[cells.names].copy() if len(cells) < len(adata) else adata
    adata.obsm[KEY] = fitted.fit.latent(cells, corrected=corrected)
    groups = None if column is None else adata.obs[column]
    if picture is not None:
        adata.obsm["X_umap"] = umap(adata.obsm[KEY])
        draw(picture, embedding(adata.obsm["X_umap"], groups))
        say(f"{picture}: UMAP of {len(adata):,} cells, in obsm['X_umap']")
    if tissue_picture is not None:
        name = fitted.fields.section
        section = None if name is None else adata.obs[name]
        draw(tissue_picture, tissue(np.asarray(adata.obsm[key])[:, :2], groups, section))
        say(f"{tissue_picture}: {len(adata):,} cells on the tissue")
    write_whole(out, adata.write_h5ad)
    say(f"{out}: {adata.obsm[KEY].shape[1]} dimensions of {len(adata):,} cells in obsm[{KEY!r}]")
