"""A fit on three levels, in one report: where cells lie, which component they are of, and which genes move them.

pyroscvi report RUN cells.h5ad --out report.html --color cell_type
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pyroscvi import __version__
from pyroscvi.analysis.loadings import loadings
from pyroscvi.analysis.probabilities import probabilities, sites_and_fields
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.reader import Reader
from pyroscvi.fitting.result import Fit
from pyroscvi.report import plots
from pyroscvi.report.document import document, figure, paragraphs, rows, safe
from pyroscvi.report.embedding import coloured
from pyroscvi.report.labels import label
from pyroscvi.report.plots import INK, quiet

PARTICLES = 50  # draws of the state of a cell, for the probability of its component
TOP = 4  # genes at each end of a dimension
MAX_DIMENSIONS = 20


def levels(fit: Fit, cells: Cells, xy: np.ndarray, colours: Mapping[str, Any]) -> str:
    """Returns the report as HTML.

    xy       the latents of the cells in two dimensions [n, 2]
    colours  {name: a group or a number for each cell}
    """
    size = f"{len(cells):,} cells, {len(fit.genes):,} genes"
    parts = [
        "<h1>Three levels of a fit</h1>",
        f'<p class="aside">{size}; pyroscvi {__version__}</p>',
        f"<p><code>{safe(fit.model)}</code><br><code>{safe(fit.guide)}</code></p>",
        "<h2>Latent: where cells lie</h2>"
        + figure(coloured(xy, colours or {"cells": np.zeros(len(cells), str)}), "UMAP of the latent space."),
        *of_components(fit, cells, xy, colours),
        *of_loadings(fit),
        "" if fit.history.empty else "<h2>Training</h2>" + figure(_history(fit), "The bound after every epoch."),
    ]
    return document("Three levels of a fit", parts)


def of_components(fit: Fit, cells: Cells, xy: np.ndarray, colours: Mapping[str, Any]) -> Iterator[str]:
    """Components: the most probable of each cell, how sure that is, how large they are, and which groups they hold."""
    yield "<h2>Mixture: which component a cell is of</h2>"
    sites = sites_and_fields(Reader(fit, cells))[0]
    if not sites:
        yield paragraphs(["The model has no components. A mixture prior has: prior=Mixture(components=8)."])
        return
    p = probabilities(fit, cells, sites[0], PARTICLES)
    best, sure = p.to_numpy().argmax(1), p.to_numpy().max(1)
    names = np.asarray(p.columns.astype(str))[best]
    yield figure(
        coloured(xy, {"most probable component": names, "its probability": sure}),
        "Every cell has a probability of every component, by Bayes' rule.",
    )
    table = pd.DataFrame({"component": p.columns.astype(str), "share of the cells": p.mean().to_numpy()})
    table["probability of its cells"] = [
        sure[best == k].mean() if (best == k).any() else np.nan for k in range(len(table))
    ]
    for name, groups in colours.items():
        if not pd.api.types.is_float_dtype(groups):
            shares = pd.get_dummies(pd.Series(np.asarray(groups).astype(str))).T.to_numpy(float) @ p.to_numpy()
            levels = np.unique(np.asarray(groups).astype(str))
            table[f"most of it, {name}"] = levels[shares.argmax(0)]
    yield rows(table, dict.fromkeys(table.columns[1:3], "{:.2f}".format))


def of_loadings(fit: Fit) -> Iterator[str]:
    """Loadings: the genes at both ends of every latent dimension, where the decoder is linear."""
    yield "<h2>Loadings: which genes a dimension moves</h2>"
    try:
        table = loadings(fit)
    except ValueError as error:
        yield paragraphs([f"{error}"])
        return
    yield figure(drawn_loadings(table), "The genes with the largest and smallest loadings of every dimension.")
    yield paragraphs(["The sign and the order of dimensions have no meaning: both differ between fits."])


def drawn_loadings(table: pd.DataFrame, top: int = TOP) -> Figure:
    """A heat map of loadings [genes, dimensions]: the genes at both ends of each of the first dimensions."""
    table = table.iloc[:, :MAX_DIMENSIONS]
    ends = [gene for name in table for gene in table[name].nlargest(top).index.append(table[name].nsmallest(top).index)]
    values = table.loc[list(dict.fromkeys(ends))].T
    most = float(np.abs(values.to_numpy()).max()) or 1.0
    size = (1.4 + 0.17 * values.shape[1], 1.2 + 0.24 * len(values))
    drawn = Figure(figsize=size, dpi=200, layout="constrained")
    ax = drawn.subplots()
    image = ax.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    quiet(ax, 7)
    ax.spines[:].set_visible(False)
    ax.set_xticks(range(values.shape[1]), [label(str(gene), 16) for gene in values], rotation=90)
    ax.set_yticks(range(len(values)), list(values.index))
    ax.tick_params(length=0)
    bar = drawn.colorbar(image, ax=ax, aspect=12, pad=0.01)
    bar.set_label("loading", fontsize=7, color=INK)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)
    return drawn


def _history(fit: Fit) -> Any:
    return plots.history({"fit": fit.history}).figure
