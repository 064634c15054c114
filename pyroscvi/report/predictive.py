"""Pictures of posterior predictive checks: a statistic of cells beside the same of their replicates.

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

__all__ = ["checks"]

DATA, MADE = "#e76300", "#3f90da"
LOG = {"mean of a gene", "variance of a gene", "library size", "maximum of a gene"}
COLUMNS = 4
MAX_MARKS = 400
CURVE = "mean and variance"


def checks(check: "Check", statistic: str | None = None) -> Figure:
    """Every statistic, or one: of the data above, of a data set of the model's own making below.

    A mark is a gene, a cell or a pair of genes: its value in the data, and the central 90% of replicates with their
    mean. Of a right model nine in ten lie on the diagonal.
    """
    names = [*check.data, CURVE] if statistic is None else [among(statistic, {n: n for n in check.data}, "statistic")]
    sets: list[tuple[str, Mapping[str, Replicated], str]] = [("the data", check.data, DATA)]
    sets += [("simulated from the fit", check.simulated[0], MADE)] if check.simulated else []
    columns = min(COLUMNS, len(names))
    blocks = [names[start : start + columns] for start in range(0, len(names), columns)]
    rows = [(block, *one) for block in blocks for one in sets]
    figure = Figure(figsize=(2.2 * columns + 0.5, 2.0 * len(rows) + 0.2), dpi=200, layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for (block, source, one, colour), line in zip(rows, panels, strict=True):
        for panel in line[len(block) :]:
            panel.set_axis_off()
        for name, panel in zip(block, line, strict=False):
            if name == CURVE:
                _curve(panel, one["mean of a gene"], one["variance of a gene"], colour)
            else:
                _against(panel, one[name], colour, log=name in LOG)
            p = "" if name == CURVE else f"   p = {one[name].p:.2g}"
            panel.set_title(f"{name}{p}", fontsize=7.5, color=INK, loc="left")
            quiet(panel, 6)
        line[0].set_ylabel(f"{source}\nreplicates", fontsize=7.5, color=INK)
    return figure


def _against(ax: Axes, one: "Replicated", colour: str, log: bool) -> None:
    keep = np.linspace(0, len(one.of_data) - 1, min(MAX_MARKS, len(one.of_data))).round().astype(int)
    x, drawn = one.of_data[keep], one.of_replicates[:, keep]
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


def _curve(ax: Axes, mean: "Replicated", variance: "Replicated", colour: str) -> None:
    """Variances of genes against their means, of the data and (grey) of every replicate."""
    few = slice(None, 20)
    keep = mean.of_data > 0
    ax.plot(
        mean.of_replicates[few].ravel(), variance.of_replicates[few].ravel(), linestyle="", marker="o", markersize=1.6,
        markeredgewidth=0, color="#c8c8c8", alpha=0.5,
    )  # fmt: skip
    ax.plot(
        mean.of_data[keep], variance.of_data[keep], linestyle="", marker="o", markersize=1.8, markeredgewidth=0,
        color=colour,
    )  # fmt: skip
    ax.set(xscale="log", yscale="log")
    ax.set_xlabel("mean (grey: replicates)", fontsize=6.5, color=FAINT)
