"""Pictures of fits. They are drawn without pyplot: no window opens, and no figure is kept alive by it.

comparison(ps.compare(fits, held_out)).figure.savefig("comparison.png")
history({"scvi": fit.history}).figure.savefig("history.png")
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import color_sequences
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyroscvi.report.labels import label
from pyroscvi.report.words import marked

if TYPE_CHECKING:
    from pyroscvi.comparison.result import Comparison

COLOURS = color_sequences["petroff10"]  # ten that stay apart under colour-vision deficiencies [Petroff, 2021]
INK, FAINT = "#333333", "#9a9a9a"
LEGEND_ROWS = 20
MAX_COLOURS = 102  # of scanpy's longest palette
VERDICTS: dict[str, dict[str, Any]] = {
    "best": {"fmt": "D", "color": INK},
    "told apart": {"fmt": "o", "color": "#e76300"},
    "indistinguishable": {"fmt": "o", "color": "#3f90da", "markerfacecolor": "white", "markeredgewidth": 1.4},
    "undecided": {"fmt": "o", "color": FAINT, "markerfacecolor": "white", "markeredgewidth": 1.4},
}


def comparison(result: "Comparison", *, ax: Axes | None = None) -> Axes:
    """Differences to the best fit in nats a cell, each with its 95% interval.

    The mark of a fit is filled if it can be told apart from the best, and open if it cannot. A fit that has not
    converged is named so. The interval of a fit with one seed is over cells alone.
    """
    table = result.table
    names = [label(marked(name, row)) for name, row in table.iterrows()]
    heights = np.array([0.24 + 0.13 * (name.count("\n") + 1) for name in names])
    at = np.cumsum(heights) - heights / 2
    ax = _axes(ax, 6.2, 1.2 + heights.sum())
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8}
    for place, (_, fit) in zip(at, table.iterrows(), strict=True):
        ax.errorbar(
            fit["difference"], place, xerr=fit["interval"], elinewidth=1.6, markersize=6, **VERDICTS[fit["verdict"]]
        )
        ax.annotate(f"{fit['evidence']:.1f}".replace("-", "\N{MINUS SIGN}"), (1.02, place), color=INK, **beside)
    ax.annotate("evidence", (1.02, -0.1), color=FAINT, **beside)
    ax.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
    quiet(ax)
    ax.set_yticks(at, names)
    ax.set_ylim(heights.sum(), -0.2)
    ax.tick_params(axis="y", length=0, labelsize=9)
    bars = "95% intervals, one seed: over cells alone" if (table["seeds"] == 1).any() else "95% intervals"
    ax.set_xlabel(f"difference in held-out log {table['estimand'].iloc[0]}, nats a cell\n(bars: {bars})", fontsize=9)
    drawn = [verdict for verdict in VERDICTS if verdict in set(table["verdict"])]
    handles = [Line2D([], [], linestyle="", markersize=5, label=verdict, **_mark(verdict)) for verdict in drawn]
    ax.figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False, fontsize=8, handletextpad=0.2)
    return ax


def history(histories: Mapping[str, pd.DataFrame], *, ax: Axes | None = None) -> Axes:
    """The ELBO of held-out cells against the epoch, a line for each fit; the ELBO of its training cells is thin.

    A fit without held-out cells has the line of its training cells alone.
    """
    ax = _axes(ax, 6.8, max(3.4, 0.6 + 0.34 * len(histories)))
    lowest, handles = [], []
    for (name, run), colour in zip(histories.items(), palette(list(histories)).values(), strict=True):
        run = run[run["elbo_train"].notna()]
        has_held_out = run["elbo_held_out"].notna().any()
        shown = run["elbo_held_out" if has_held_out else "elbo_train"]
        ax.plot(run["epoch"], run["elbo_train"], color=colour, linewidth=0.7, alpha=0.5)
        handles += ax.plot(run["epoch"], shown, color=colour, linewidth=1.6, label=label(name))
        lowest.append(shown.quantile(0.1) if len(shown) > 10 else shown.min())  # not the first epochs
    top = max(max(run["elbo_train"].max(), run["elbo_held_out"].max()) for run in histories.values())
    spread = (top - min(lowest)) or 1.0
    if np.isfinite([top, spread]).all():
        ax.set_ylim(min(lowest) - 0.1 * spread, top + 0.05 * spread)
    quiet(ax)
    ax.set_xlabel("epoch", color=INK)
    ax.set_ylabel("ELBO a cell (nats)", color=INK)
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "frameon": False, "fontsize": 8}
    held_out = any(run["elbo_held_out"].notna().any() for run in histories.values())
    title = "held out (thin: training)" if held_out else "training cells"
    ax.legend(handles=handles, title=title, title_fontsize=8, **place)
    return ax


def panels(
    count: int, columns: int, each: tuple[float, float], beside: tuple[float, float], **shared: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, at most ``columns`` in a row; ``each``, and what is ``beside`` them, in inches."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    size = (each[0] * columns + beside[0], each[1] * rows + beside[1])
    figure = Figure(figsize=size, dpi=200, layout="constrained")
    every = list(figure.subplots(rows, columns, squeeze=False, **shared).ravel())
    for panel in every[count:]:
        panel.set_axis_off()
    for panel in every[max(count - columns, 0) : count]:
        panel.tick_params(labelbottom=True)  # of the lowest panel of a column, where panels share an axis
    return figure, every[:count]


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    return Figure(figsize=(width, height), dpi=200, layout="constrained").subplots() if ax is None else ax


def quiet(ax: Axes, size: float = 8) -> None:
    """Axes without a frame, with small grey ticks."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.tick_params(colors=INK, labelsize=size, color=FAINT, which="both")


def _mark(verdict: str) -> dict[str, Any]:
    style = dict(VERDICTS[verdict])
    return {"marker": style.pop("fmt"), **style}


def palette(names: Sequence[str], apart: str | None = None) -> dict[str, str]:
    """A colour for every name, all of them different up to ``MAX_COLOURS``; grey for the one that is set apart."""
    known = [name for name in names if name != apart]
    colours: Any = COLOURS
    if len(known) > len(COLOURS):
        from scanpy.plotting import palettes

        longer = (palettes.default_20, palettes.default_28, palettes.default_102)
        colours = next((colours for colours in longer if len(colours) >= len(known)), palettes.default_102)
    chosen = {name: to_hex(colours[place % len(colours)]) for place, name in enumerate(known)}
    return {name: chosen.get(name, FAINT) for name in names}


def legend_of(colours: Mapping[str, Any], marker: str = "o") -> dict[str, Any]:
    """The arguments of a legend with a coloured mark for every name."""
    handles = [
        Line2D([], [], linestyle="", marker=marker, markersize=5, markeredgewidth=0, color=colour, label=label(name))
        for name, colour in colours.items()
    ]
    columns = math.ceil(len(colours) / LEGEND_ROWS)
    return {"handles": handles, "ncols": columns, "frameon": False, "fontsize": 8, "handletextpad": 0.2}
