"""Pictures of cells: the UMAP of their latents, and their places on the tissue, coloured by a column.

They are drawn without pyplot: no window opens, and no figure is kept alive by it.

    latents({"scvi": z, "gmvae": w}, adata.obs["cell_type"]).savefig("latents.png")
    tissue(adata.obsm["spatial"], adata.obs["cell_type"], adata.obs["section"]).savefig("tissue.png")
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pyroscvi.data.process import process_kept
from pyroscvi.report.labels import label
from pyroscvi.report.plots import FAINT, INK, MAX_COLOURS, legend_of, palette, panels

UNKNOWN = "not known"


def projection(z: np.ndarray, method: str = "umap", seed: int = 0) -> np.ndarray:
    """Two dimensions [n, 2] of z [n, d], by scanpy: "umap", "tsne" or "pca".

    UMAP [McInnes et al., 2018, arXiv:1802.03426] and t-SNE [van der Maaten and Hinton, 2008] keep the neighbours of a
    cell. PCA keeps distances: it is linear. A z with fewer than three dimensions is its own PCA.
    """
    import scanpy as sc
    from anndata import AnnData

    z = np.asarray(z, dtype=np.float32)
    cells = AnnData(obsm={"z": z})
    with process_kept(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_jobs value", UserWarning)  # scanpy warns at every seeded UMAP
        if method == "pca":
            components = sc.pp.pca(z, n_comps=min(2, *z.shape), random_state=seed)
            return np.hstack([components, np.zeros((len(z), 2 - components.shape[1]))])
        if method == "tsne":
            sc.tl.tsne(cells, use_rep="z", perplexity=min(30, (len(z) - 1) / 3), random_state=seed)
        else:
            sc.pp.neighbors(cells, n_neighbors=min(15, len(z) - 1), use_rep="z", random_state=seed)
            sc.tl.umap(cells, random_state=seed)
    return np.asarray(cells.obsm[f"X_{method}"])


def embedding(
    xy: np.ndarray, groups: Any = None, *, ax: Axes | None = None, legend: bool = True, name: str = "UMAP"
) -> Axes:
    """Cells at xy [n, 2], coloured by group [n]: each level in its colour, many different numbers by a colour bar."""
    own = ax is None
    if ax is None:
        ax = Figure(figsize=(4.6, 4.6), dpi=200, layout="constrained").subplots()
    drawn = _scatter(ax, xy, groups, size=float(np.clip(40_000 / max(len(xy), 1), 1.5, 30)))
    ax.set_box_aspect(1)
    ax.margins(0.06)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.set_xlabel(f"{name} 1", loc="left", fontsize=8, color=FAINT)
    ax.set_ylabel(f"{name} 2", loc="bottom", fontsize=8, color=FAINT)
    if legend and _is_continuous(groups):
        ax.figure.colorbar(drawn, cax=ax.inset_axes((1.05, 0.2, 0.04, 0.6)))  # in line with panels that have legends
    elif legend and own:
        _shared_legend(ax.figure, groups, len(xy))
    elif legend and groups is not None:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), **_legend(groups, len(xy)))
    return ax


def coloured(xy: np.ndarray, colours: Mapping[str, Any], *, name: str = "UMAP") -> Figure:
    """The same cells at xy [n, 2] several times, coloured by each of these groups or numbers, each with its legend."""
    figure = Figure(figsize=(5.6 * min(len(colours), 2), 3.9 * math.ceil(len(colours) / 2)), dpi=200)
    figure.set_layout_engine("constrained")
    squares = figure.subplots(math.ceil(len(colours) / 2), min(len(colours), 2), squeeze=False).ravel()
    for panel, (title, groups) in zip(squares, colours.items(), strict=False):
        embedding(xy, groups, ax=panel, name=name)
        panel.set_title(label(title, 40, 2), fontsize=9, color=INK, loc="left")
    for panel in squares[len(colours) :]:
        panel.set_axis_off()
    return figure


def latents(z: Mapping[str, np.ndarray], groups: Any = None, *, seed: int = 0) -> Figure:
    """The UMAP of every latent space [n, d], side by side with one legend."""
    figure, squares = _titled(list(z))
    for panel, points in zip(squares, z.values(), strict=True):
        embedding(projection(points, seed=seed), groups, ax=panel, legend=False)
    _shared_legend(figure, groups, len(next(iter(z.values()))))
    return figure


def tissue(xy: np.ndarray, groups: Any = None, section: Any = None) -> Figure:
    """Cells at their places xy [n, 2 or more] on the tissue, coloured by group [n]; a panel for each section [n].

    The second coordinate grows downwards, as in an image. Distances are true: both axes have one scale.
    """
    xy = np.asarray(xy)  # a table of obsm may be a DataFrame
    sections = pd.Categorical(np.zeros(len(xy), int) if section is None else section)
    kinds = None
    if groups is not None:
        kinds = pd.Series(np.asarray(groups) if _is_continuous(groups) else pd.Categorical(groups))
    extents = [np.ptp(xy[sections.codes == code, :2], 0) for code in np.unique(sections.codes)]
    ratio = float(np.clip(max(high / max(wide, 1e-9) for wide, high in extents), 0.3, 2))
    names = [""] if section is None else [str(name) for name in sections.categories]
    figure, squares = _titled(names, 3.2 * ratio)
    limits: dict[str, Any] = (
        {"vmin": kinds.min(), "vmax": kinds.max()} if kinds is not None and _is_continuous(kinds) else {}
    )
    for code, panel in enumerate(squares):
        here = np.flatnonzero(sections.codes == code)
        size = float(np.clip(20_000 / max(len(here), 1), 1, 60))
        drawn = _scatter(panel, xy[here], None if kinds is None else kinds.iloc[here], size=size, **limits)
        panel.set_aspect("equal")
        panel.invert_yaxis()
        panel.spines[:].set_visible(False)
    if limits:
        figure.colorbar(drawn, ax=squares, shrink=0.6)
    else:
        _shared_legend(figure, kinds, len(xy))
    return figure


def _scatter(ax: Axes, xy: np.ndarray, groups: Any, size: float, **limits: Any) -> Any:
    """Draw the cells in a random order, so that no group lies on top of the others."""
    order = np.random.default_rng(0).permutation(len(xy))
    if _is_continuous(groups):
        colours: Any = np.asarray(groups, dtype=float)[order]
    else:
        codes, names = _levels(groups, len(xy))
        colours = np.array(list(palette(names, UNKNOWN).values()), dtype=object)[codes[order]].tolist()
    ax.set(xticks=[], yticks=[])
    return ax.scatter(xy[order, 0], xy[order, 1], s=size, c=colours, linewidths=0, alpha=0.85, **limits)


def _titled(names: list[str], height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """A panel for each name, 3.2 inches wide and so high below its title, at most three in a row."""
    figure, squares = panels(len(names), min(math.ceil(math.sqrt(len(names))), 3), (3.2, height + 0.2), (0, 0))
    for panel, name in zip(squares, names, strict=True):
        panel.set_title(label(name, 30, 2) if name else "", fontsize=9, color=INK, loc="left")
    return figure, squares


def _is_continuous(groups: Any) -> bool:
    """Numbers that are not whole, or have more values than a legend holds."""
    if groups is None or not pd.api.types.is_numeric_dtype(groups) or pd.api.types.is_bool_dtype(groups):
        return False
    if pd.api.types.is_float_dtype(groups) and (np.mod(pd.Series(np.asarray(groups)).dropna(), 1) > 0).any():
        return True
    return len(pd.unique(pd.Series(np.asarray(groups)))) > min(MAX_COLOURS, len(groups) // 2)


def _levels(groups: Any, n: int) -> tuple[np.ndarray, list[str]]:
    """Codes [n] and the names of the levels; a missing value is a level of its own, the first."""
    if groups is None:
        return np.zeros(n, dtype=int), [""]
    kind = pd.Categorical(groups)
    names = [str(name) for name in kind.categories]
    return (np.asarray(kind.codes), names) if (kind.codes >= 0).all() else (kind.codes + 1, [UNKNOWN, *names])


def _legend(groups: Any, n: int) -> dict[str, Any]:
    return legend_of(palette(_levels(groups, n)[1], UNKNOWN))


def _shared_legend(figure: Any, groups: Any, n: int) -> None:
    """One legend to the right of all panels, and a figure that is as much wider as the legend takes."""
    if groups is None or _is_continuous(groups):
        return
    legend = figure.legend(loc="outside right center", **_legend(groups, n))
    box = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + box.width / figure.dpi + 0.1, max(height, box.height / figure.dpi + 0.2))
