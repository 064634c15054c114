"""Pictures of a comparison, cell by cell: where models differ, and which of them is better there.

    table = ps.compare(fits, held_out)
    by_cell(table, "cell_type")              differences to the best against library size
    winners(table, "cell_type")              the share of the cells of every type that each fit explains best
    by_latent(table)                         evidence against the width of z
    by_gene(ps.compare_genes(two, held_out))

The comparison itself, as differences with their errors, is ``report.plots.comparison``.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyroscvi.comparison.compare import cell_table
from pyroscvi.report.plots import COLOURS, FAINT, INK

__all__ = ["by_cell", "by_gene", "by_latent", "varies_in_width", "winners"]

PANELS = 6  # more fits than this have panels that nobody reads
GROUPS = 10
EVERYONE, OTHERS = "all cells", "others"


def by_cell(table: pd.DataFrame, field: str | None = None) -> Figure:
    """log p(x_n) of every fit less that of the best fit, against the library size of the cell; a panel a fit.

    Cells are coloured by their level of ``field``; black lines are running medians. Of the most extreme cells, one in a
    hundred to either side, the edge of the panel is shown.
    """
    evidence, library, group = _laid_out(table, field)
    best, *others = table.index[: PANELS + 1]
    colours = _coloured(group)
    columns = min(max(len(others), 1), 3)
    rows = math.ceil(max(len(others), 1) / columns)
    figure = Figure(figsize=(2.7 * columns + 1.5, 2.3 * rows + 0.4), dpi=200, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    order = np.random.default_rng(0).permutation(len(group))
    size = float(np.clip(4000 / len(group), 2, 14))
    library, shades = library.clip(min=1), [colours[group.iloc[n]] for n in order]
    for panel, other in zip(panels, others, strict=False):
        difference = (evidence[other] - evidence[best]).to_numpy()
        low, high = np.quantile(difference, [0.01, 0.99])
        shown = difference.clip(low, high)
        panel.scatter(library[order], shown[order], s=size, c=shades, linewidths=0, alpha=0.8)
        panel.plot(*_running_median(library, difference), color=INK, linewidth=1.4)
        panel.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
        _log_scale(panel, library)
        panel.set_title(str(other), fontsize=8.5, color=INK, loc="left")
        _quiet(panel)
    for panel in panels[len(others) :]:
        panel.set_axis_off()
    figure.supxlabel("counts of the cell", fontsize=8.5, color=INK)
    figure.supylabel(f"nats, less those of {best}", fontsize=8.5, color=INK)
    if field is not None:
        _legend(figure, colours)
    return figure


def winners(table: pd.DataFrame, field: str | None = None) -> Figure:
    """The share of the cells of every level of ``field`` whose evidence is highest under each fit."""
    evidence, _, group = _laid_out(table, field)
    names = list(table.index)
    first = evidence[names].idxmax(axis=1)
    often = list(first.value_counts().index[: GROUPS - 1])
    shown = [name for name in names if name in often]  # best first, as everywhere else
    first = first.where(first.isin(shown), OTHERS)
    shown += [OTHERS] if (first == OTHERS).any() else []
    rows = [EVERYONE] if field is None else [EVERYONE, *group.value_counts().index]
    figure = Figure(figsize=(7.4, 0.9 + 0.27 * len(rows)), dpi=200, layout="constrained")
    ax = figure.subplots()
    for row, level in enumerate(rows):
        here = first if row == 0 else first[group == level]
        left = 0.0
        for name, colour in zip(shown, _palette(shown), strict=True):
            share = float((here == name).mean())
            ax.barh(row, share, left=left, color=colour, height=0.72, edgecolor="white", linewidth=0.6)
            left += share
        ax.annotate(
            f"{len(here):,}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=7, color=FAINT
        )
    ax.set_yticks(range(len(rows)), [str(row) for row in rows], fontsize=8)
    ax.get_yticklabels()[0].set_fontweight("bold")
    ax.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
    ax.set_xlabel("share of the cells that it explains best", fontsize=8.5, color=INK)
    ax.annotate("cells", (1.01, -0.9), xycoords=("axes fraction", "data"), fontsize=7, color=FAINT)
    _quiet(ax)
    ax.tick_params(axis="y", length=0)
    handles = [
        Line2D([], [], linestyle="", marker="s", color=c, label=n) for n, c in zip(shown, _palette(shown), strict=True)
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8, handletextpad=0.2)
    return figure


def by_latent(table: pd.DataFrame) -> Figure:
    """Evidence against the width of z: a line for fits that differ in nothing else, bars of two standard errors.

    Errors are those of the difference to the best of all. ValueError where no two widths are compared.
    """
    widths = table.attrs["latent"]
    families = _families(table)
    if not families:
        raise ValueError("no two fits differ in the width of z alone: declare latent=[5, 10, 20]")
    figure = Figure(figsize=(6.6, 3.2), dpi=200, layout="constrained")
    ax = figure.subplots()
    for place, (family, members) in enumerate(families.items()):
        aside = 1.02 ** (place - (len(families) - 1) / 2)  # so that bars do not hide each other
        rows = table.loc[sorted(members, key=lambda name: widths[name])]
        at = [widths[name] * aside for name in rows.index]
        bars: dict[str, Any] = {"linewidth": 1.4, "elinewidth": 1, "marker": "o", "markersize": 4}
        colour = COLOURS[place % len(COLOURS)]
        ax.errorbar(at, rows["difference"], yerr=2 * rows["standard_error"], color=colour, label=family, **bars)
    ax.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
    ax.set_xscale("log")
    ax.minorticks_off()
    ticks = sorted({widths[name] for members in families.values() for name in members})
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xlabel("dimensions of z", fontsize=8.5, color=INK)
    ax.set_ylabel("nats a cell, less the best (2 s.e.)", fontsize=8.5, color=INK)
    _quiet(ax)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def varies_in_width(table: pd.DataFrame) -> bool:
    """Are there two fits that differ in the width of z, and in nothing else?"""
    return bool(_families(table))


def by_gene(genes: pd.DataFrame, most: int = 12) -> Figure:
    """The genes that either of two fits predicts better, by the most: nats over all cells, and two standard errors."""
    ahead = genes[genes["predicted"] > 0].head(most)
    behind = genes[genes["predicted"] < 0].tail(most)
    figure = Figure(figsize=(7.4, 0.95 + 0.2 * max(len(ahead), len(behind), 2)), dpi=200, layout="constrained")
    sides = {genes.attrs["first"]: ahead, genes.attrs["second"]: behind.iloc[::-1]}
    for ax, (better, rows), colour in zip(figure.subplots(1, 2), sides.items(), COLOURS, strict=False):
        total = rows["predicted"].abs().to_numpy()
        told = (rows["verdict"] != "indistinguishable").to_numpy()
        at = np.arange(len(rows))
        ax.hlines(
            at, total - 2 * rows["predicted_error"], total + 2 * rows["predicted_error"], color=colour, linewidth=1.4
        )
        ax.scatter(total, at, s=24, facecolors=[colour if t else "white" for t in told], edgecolors=[colour], zorder=3)
        ax.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
        ax.set_yticks(at, [str(gene) for gene in rows.index], fontsize=7.5)
        ax.set_ylim(max(len(ahead), len(behind), 1) - 0.5, -0.5)
        ax.set_title(f"better by {better}", fontsize=8.5, color=INK, loc="left")
        _quiet(ax)
        ax.tick_params(axis="y", length=0)
    figure.supxlabel("nats over all cells (bars: 2 s.e.; filled: told apart)", fontsize=8.5, color=INK)
    return figure


def _laid_out(table: pd.DataFrame, field: str | None) -> tuple[pd.DataFrame, np.ndarray, pd.Series]:
    """Evidences under their names, library sizes, and the group of every cell; rare groups are put together."""
    both = cell_table(table)
    if field is not None and field not in both["cell"]:
        known = ", ".join(table.attrs["groups"]) or "none"
        raise KeyError(f"these cells have no field {field!r}; there are {known}")
    group = pd.Series(EVERYONE, index=both.index) if field is None else both["cell", field].astype(str)
    common = group.value_counts().index[: GROUPS if group.nunique() <= GROUPS else GROUPS - 1]
    return both["log_evidence"], both["cell", "library_size"].to_numpy(), group.where(group.isin(common), OTHERS)


def _families(table: pd.DataFrame) -> dict[str, list[str]]:
    """Names of fits that are alike but for the width of z, under a name for what they have in common."""
    widths, declared = table.attrs["latent"], table.attrs["declared"]
    alike: dict[Any, list[str]] = {}
    for name in table.index:
        if isinstance(widths[name], int):
            model, guide = declared[name]
            alike.setdefault((_without_latent(model, widths[name]), guide), []).append(name)
    several = [members for members in alike.values() if len({widths[name] for name in members}) > 1]
    return {_common(members, widths): members for members in several}


def _without_latent(model: str, width: int) -> str:
    """How a model prints when its width is left at the default."""
    return model.replace(f"latent={width}, ", "").replace(f"latent={width}", "")


def _common(members: list[str], widths: dict[str, int]) -> str:
    """What is left of a name without its "latent 5"."""
    left = [word for word in members[0].split(", ") if word != f"latent {widths[members[0]]}"]
    return ", ".join(left) or "evidence"


def _running_median(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians of x and y in tenths of the cells, or fewer where there are few cells."""
    parts = np.array_split(np.argsort(x, kind="stable"), int(np.clip(len(x) // 15, 1, 10)))
    return np.array([np.median(x[part]) for part in parts]), np.array([np.median(y[part]) for part in parts])


def _coloured(group: pd.Series) -> dict[str, Any]:
    names = list(group.value_counts().index)
    return {EVERYONE: COLOURS[0]} if EVERYONE in names else dict(zip(names, _palette(names), strict=True))


def _palette(names: list[str]) -> list[Any]:
    return [FAINT if name == OTHERS else COLOURS[i % len(COLOURS)] for i, name in enumerate(names)]


def _legend(figure: Figure, colours: dict[str, Any]) -> None:
    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=5, markeredgewidth=0, color=colour, label=name)
        for name, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=8, handletextpad=0.2)


def _log_scale(ax: Axes, values: np.ndarray) -> None:
    """Ticks at 1, 2 and 5 times a power of ten, written out; at the ends where that leaves none."""
    ax.set_xscale("log")
    powers = range(math.floor(math.log10(values.min())), math.ceil(math.log10(values.max())) + 1)
    round_ones = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    ticks = [tick for tick in round_ones if values.min() <= tick <= values.max()] or [values.min(), values.max()]
    ax.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    ax.minorticks_off()


def _quiet(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.tick_params(colors=INK, labelsize=7.5, color=FAINT)
