"""``pyroscvi embed``: latents of cells, those that a run was fitted on or others."""

from pathlib import Path
from typing import Any

from pyroscvi.cli.data import read_data
from pyroscvi.cli.files import draw, free
from pyroscvi.cli.runs import KEY, read_run
from pyroscvi.fitting.files import write_whole
from pyroscvi.names import among
from pyroscvi.report import plots

__all__ = ["embed_run"]


def embed_run(
    run: Path,
    data: Path,
    out: Path,
    *,
    picture: Path | None = None,
    color: str | None = None,
    corrected: bool = False,
    reading: dict[str, Any] | None = None,
    pages: list[Path] | None = None,
    force: bool = False,
) -> None:
    for file in (out, picture):
        if file is not None:
            free(file, force)
    found = read_run(run, pages or ())
    adata = read_data(data)
    groups = None if color is None else among(color, {name: adata.obs[name] for name in adata.obs}, "column of obs")
    cells = found.fit.fields.read(adata, **(reading or {}))
    adata = adata[cells.names].copy() if len(cells) < len(adata) else adata
    adata.obsm[KEY] = found.fit.latent(cells, corrected=corrected)
    if picture is not None:
        adata.obsm[f"{KEY}_umap"] = plots.umap(adata.obsm[KEY])
        draw(picture, plots.embedding(adata.obsm[f"{KEY}_umap"], groups))
        print(f"{picture}: UMAP of {len(adata):,} cells")
    write_whole(out, adata.write_h5ad)
    print(f"{out}: {adata.obsm[KEY].shape[1]} dimensions of {len(adata):,} cells in obsm[{KEY!r}]")
