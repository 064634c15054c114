"""Pictures of an annotation: which types are taken for which, and whether probabilities mean what they say.

annotated(fit.annotate(query), query.obs["cell_type"]).savefig("annotation.png")
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.stats import beta

from pyroscvi.report.labels import label
from pyroscvi.report.plots import COLOURS, FAINT, INK, quiet

if TYPE_CHECKING:
    from pyroscvi.analysis.annotate import Annotation

BINS = 8  # of equally many cells


def annotated(annotation: "Annotation", truth: ArrayLike) -> Figure:
    """The confusion matrix of true types (rows) and annotations, and the reliability of the best probability."""
    true = annotation.true_types(truth)
    has_truth = true.notna().to_numpy()
    if not has_truth.any():
        raise ValueError("no cell has a true type: there is nothing to compare annotations with")
    table = annotation.table[has_truth].assign(truth=true[has_truth])
    counts = pd.crosstab(table["truth"], table["annotation"])
    known = [name for name in annotation.probabilities if name in counts.index or name in counts.columns]
    rows = [*(name for name in known if name in counts.index), *(n for n in counts.index if n not in known)]
    columns = [*(name for name in known if name in counts.columns), *(n for n in counts.columns if n not in known)]
    counts = counts.loc[rows, columns]
    side = 1.2 + 0.28 * max(len(rows), len(columns), 5)
    figure = Figure(figsize=(side + 1.4 + 3.4, max(side, 3.2)), dpi=200, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[side + 1.4, 3.4])
    _confusion(left, counts)
    _reliability(right, table[table["truth"].isin(annotation.probabilities.columns)])
    return figure


def _confusion(ax: Axes, counts: pd.DataFrame) -> None:
    share = counts.to_numpy() / counts.to_numpy().sum(1, keepdims=True)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(counts.to_numpy()):
        if value:
            colour = "white" if share[row, column] > 0.6 else INK
            ax.text(column, row, f"{value:,}", ha="center", va="center", fontsize=6, color=colour)
    ax.set_xticks(range(counts.shape[1]), [label(name, 18, 1) for name in counts.columns], rotation=40, ha="right")
    ax.set_yticks(range(len(counts)), [label(name, 18, 1) for name in counts.index])
    ax.tick_params(labelsize=6.5, length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("annotation", fontsize=7.5, color=INK)
    ax.set_ylabel("true type (cells; colour: share of the row)", fontsize=7.5, color=INK)


def _reliability(ax: Axes, table: pd.DataFrame) -> None:
    """Accuracy against probability in bins of equally many cells, with 90% intervals of the accuracy."""
    ax.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, zorder=0)
    ordered = table.sort_values("probability", kind="stable")
    for rows in np.array_split(np.arange(len(ordered)), min(BINS, max(len(ordered), 1))):
        some = ordered.iloc[rows]
        if len(some):
            right, n = int((some["type"] == some["truth"]).sum()), len(some)
            low, high = beta.ppf([0.05, 0.95], right + 0.5, n - right + 0.5)
            x = some["probability"].mean()
            ax.vlines(x, low, high, color=COLOURS[0], linewidth=1)
            ax.plot(x, right / n, "o", color=COLOURS[0], markersize=4)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), box_aspect=1)
    ax.set_xlabel("probability of the most probable type", fontsize=7.5, color=INK)
    ax.set_ylabel("share of cells for which it is right", fontsize=7.5, color=INK)
    quiet(ax, 6.5)
