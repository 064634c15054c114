"""Pictures of posterior predictive checks: statistics of the cells against those of their replicates.

predictive_check(fit, cells).plot().savefig("predictive.png")
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyroscvi.names import among
from pyroscvi.report.plots import FAINT, INK, quiet

if TYPE_CHECKING:
    from pyroscvi.calibration.predictive import Check, Replicated

DATA_COLOUR, SIMULATED_COLOUR = "#e76300", "#3f90da"
LOG_SCALE = {"mean of a gene", "variance of a gene", "library size", "maximum of a gene"}
MAX_COLUMNS = 4
MAX_MARKS = 400
MAX_REPLICATES = 20
MEAN_VARIANCE = "mean and variance"


def checks(check: "Check", statistic: str | None = None) -> Figure:
    """A panel for every statistic, or for one: of the data above, of a data set simulated from the model below.

    A mark is a gene, a cell or a pair of genes: its value in the data, and the mean and central 90% of its replicates.
    If the model is right, nine in ten intervals cross the diagonal.
    """
    known = {name: name for name in check.data}
    names = [*known, MEAN_VARIANCE] if statistic is None else [among(statistic, known, "statistic")]
    sets: list[tuple[str, Mapping[str, Replicated], str]] = [("the data", check.data, DATA_COLOUR)]
    sets += [("simulated from the fit", check.simulated[0], SIMULATED_COLOUR)] if check.simulated else []
    columns = min(MAX_COLUMNS, len(names))
    blocks = [names[start : start + columns] for start in range(0, len(names), columns)]
    rows = [(block, *shown) for block in blocks for shown in sets]
    figure = Figure(figsize=(2.2 * columns + 0.5, 2.0 * len(rows) + 0.2), dpi=200, layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for (block, source, statistics, colour), line in zip(rows, panels, strict=True):
        for panel in line[len(block) :]:
            panel.set_axis_off()
        for name, panel in zip(block, line, strict=False):
            if name == MEAN_VARIANCE:
                _mean_variance(panel, statistics["mean of a gene"], statistics["variance of a gene"], colour)
            else:
                _replicates(panel, statistics[name], colour, log=name in LOG_SCALE)
            p = "" if name == MEAN_VARIANCE else f"   p = {statistics[name].p:.2g}"
            panel.set_title(f"{name}{p}", fontsize=7.5, color=INK, loc="left")
            quiet(panel, 6)
        line[0].set_ylabel(f"{source}\nreplicates", fontsize=7.5, color=INK)
    return figure


def _replicates(ax: Axes, statistic: "Replicated", colour: str, log: bool) -> None:
    keep = np.linspace(0, len(statistic.of_data) - 1, min(MAX_MARKS, len(statistic.of_data))).round().astype(int)
    x, drawn = statistic.of_data[keep], statistic.of_replicates[:, keep]
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    both: Any = [min(x.min(), low.min()), max(x.max(), high.max())]
    ax.plot(both, both, color=FAINT, linewidth=0.8, zorder=0)
    ax.vlines(x, low, high, color=colour, linewidth=0.6, alpha=0.35)
    ax.plot(x, drawn.mean(0), linestyle="", marker="o", markersize=1.6, markeredgewidth=0, color=colour, alpha=0.8)
    if log:
        least = min((v[v > 0].min() for v in (x, drawn) if (v > 0).any()), default=1.0)
        ax.set_xscale("symlog", linthresh=least)
        ax.set_yscale("symlog", linthresh=least)
    ax.set_xlabel("observed", fontsize=6.5, color=FAINT)


def _mean_variance(ax: Axes, mean: "Replicated", variance: "Replicated", colour: str) -> None:
    """Variances of genes against their means, in the data and (grey) in some replicates."""
    keep = mean.of_data > 0
    ax.plot(
        mean.of_replicates[:MAX_REPLICATES].ravel(), variance.of_replicates[:MAX_REPLICATES].ravel(), linestyle="",
        marker="o", markersize=1.6, markeredgewidth=0, color="#c8c8c8", alpha=0.5,
    )  # fmt: skip
    ax.plot(
        mean.of_data[keep], variance.of_data[keep], linestyle="", marker="o", markersize=1.8, markeredgewidth=0,
        color=colour,
    )  # fmt: skip
    ax.set(xscale="log", yscale="log")
    ax.set_xlabel("mean (grey: replicates)", fontsize=6.5, color=FAINT)
