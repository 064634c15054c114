"""Pictures of differential expression: the change of every gene against its evidence.

changes(fit.differential(adata, "cell_type")).savefig("changes.png")
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyroscvi.report.labels import label
from pyroscvi.report.plots import FAINT, INK, legend_of, palette, panels, quiet

CHANGED_COLOUR = "#e76300"
NAMED_GENES = 8  # genes a panel
MAX_PANELS = 12


def changes(table: pd.DataFrame) -> Figure:
    """A panel for each comparison: estimates of log2 fold changes, and how many standard errors they are from zero.

    The genes that are called changed are coloured, and those with the best evidence have their name and interval.
    """
    names = [name for name in ("within", "group", "reference") if name in table]
    compared = list(table.groupby(names, sort=False))[:MAX_PANELS]
    figure, squares = panels(len(compared), min(math.ceil(math.sqrt(len(compared))), 3), (3.4, 3.2), (0, 0))
    for panel, (key, rows) in zip(squares, compared, strict=True):
        x, y = rows["log2_fold_change"].to_numpy(), (rows["estimate"] / rows["standard_error"]).abs().to_numpy()
        called = rows["changed"].to_numpy()
        panel.scatter(x[~called], y[~called], s=4, color="#c8c8c8", linewidths=0, label="not called")
        panel.scatter(x[called], y[called], s=6, color=CHANGED_COLOUR, linewidths=0, label="called changed")
        best = np.flatnonzero(called)[:NAMED_GENES]
        panel.hlines(
            y[best], rows["low"].iloc[best], rows["high"].iloc[best], color=CHANGED_COLOUR, linewidth=0.6, alpha=0.5
        )
        _name(panel, x[best], y[best], list(rows["gene"].iloc[best]))
        panel.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
        *within, one, other = key
        title = f"{one} against {other}{''.join(f', in {where}' for where in within)}"
        panel.set_title(label(title, 44, 2), fontsize=8, color=INK, loc="left")
        panel.set_xlabel("log2 fold change (interval)", fontsize=6.5, color=FAINT)
        panel.set_ylabel("standard errors from zero", fontsize=6.5, color=FAINT)
        quiet(panel, 6)
    squares[0].legend(fontsize=5.5, frameon=False, loc="lower right", handletextpad=0.1)
    return figure


def _name(panel: Axes, x: np.ndarray, y: np.ndarray, names: list[str]) -> None:
    """Names beside their points; where they would lie on each other, below their points, at the end of a thin line."""
    step, place = np.ptp(panel.get_ylim()) / 22, np.inf
    for g in np.argsort(-y, kind="stable"):
        place = min(float(y[g]), place - step)
        panel.plot([x[g], x[g]], [y[g], place], color=FAINT, linewidth=0.4, zorder=0)
        side = {"ha": "left", "xytext": (3, 0)} if x[g] >= 0 else {"ha": "right", "xytext": (-3, 0)}
        at: Any = {"xy": (x[g], place), "textcoords": "offset points", "va": "center", **side}
        panel.annotate(label(names[g], 16, 1), fontsize=5.5, color=INK, **at)


def largest(table: pd.DataFrame, genes: int = 15) -> Figure:
    """A panel for each group: the genes whose effect is largest and probable, with intervals: ``Fit.effect``."""
    groups = list(table.groupby("group", sort=False))[:MAX_PANELS] if "group" in table else [("", table)]
    best = {}
    for name, rows in groups:
        sure = rows[rows["p_change"] > 0.95]
        best[str(name)] = (sure if len(sure) else rows).head(genes)
    return intervals(best, "gene", "log2_fold_change", "log2 fold change (interval)")


def abundances(table: pd.DataFrame) -> Figure:
    """A panel for each comparison: the change of the odds of every type, with intervals: ``Fit.abundance``."""
    compared = table.groupby(["group", "reference"], sort=False)
    panels_of = {f"{one} against {other}": rows for (one, other), rows in list(compared)[:MAX_PANELS]}
    return intervals(panels_of, "type", "log2_odds_ratio", "log2 odds ratio (interval)")


def intervals(tables: Mapping[str, pd.DataFrame], name: str, value: str, axis: str) -> Figure:
    """A panel for each table: a line for each row, from ``low`` to ``high``; grey where it is not called changed."""
    most = max(map(len, tables.values()))
    figure, squares = panels(len(tables), min(len(tables), 3), (3.0, 0.6 + 0.18 * most), (0, 0))
    for panel, (title, rows) in zip(squares, tables.items(), strict=True):
        rows = rows.sort_values(value)
        place = np.arange(len(rows))
        called = rows["changed"] if "changed" in rows else rows["p_change"] > 0.95
        colours = np.where(called, CHANGED_COLOUR, "#a0a0a0")
        panel.hlines(place, rows["low"], rows["high"], color=colours, linewidth=1)
        panel.scatter(rows[value], place, s=9, color=colours, linewidths=0)
        panel.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
        panel.set_yticks(place, [label(str(one), 22, 1) for one in rows[name]])
        panel.set_title(label(title, 36, 1) if title else "", fontsize=8, color=INK, loc="left")
        panel.set_xlabel(axis, fontsize=6.5, color=FAINT)
        quiet(panel, 6)
    return figure


def curves(table: pd.DataFrame, field: str, genes: int = 9) -> Figure:
    """A panel for each gene with a large effect: a line for each group along the field, within its interval.

    table  of ``Fit.effect_curve``
    """
    largest_first = table.assign(size=table["log2_fold_change"].abs() * (table["p_change"] > 0.5))
    best = largest_first.groupby("gene", sort=False)["size"].max().nlargest(genes).index
    is_number = pd.api.types.is_numeric_dtype(table[field])
    order = sorted(table[field].unique()) if is_number else list(table[field].unique())
    place = {value: value if is_number else number for number, value in enumerate(order)}
    groups = list(dict.fromkeys(table["group"])) if "group" in table else [""]
    colours = palette(list(map(str, groups)))
    figure, squares = panels(len(best), min(len(best), 3), (2.4, 2.0), (1.4 if len(groups) > 1 else 0, 0))
    for panel, gene in zip(squares, best, strict=True):
        rows = table[table["gene"] == gene]
        for name, line in rows.groupby("group", sort=False) if "group" in table else [("", rows)]:
            x = line[field].map(place).to_numpy(float)
            along = np.argsort(x)
            line, x = line.iloc[along], x[along]
            panel.fill_between(x, line["low"], line["high"], color=colours[str(name)], alpha=0.15, linewidth=0)
            panel.plot(x, line["log2_fold_change"], color=colours[str(name)], linewidth=1.2, marker="o", markersize=2.5)
        panel.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
        if not is_number:
            panel.set_xticks(range(len(order)), [label(str(value), 12) for value in order])
        panel.set_title(label(str(gene), 24, 1), fontsize=8, color=INK, loc="left")
        panel.set_xlabel(field, fontsize=6.5, color=FAINT)
        panel.set_ylabel("log2 fold change", fontsize=6.5, color=FAINT)
        quiet(panel, 6)
    if len(groups) > 1:
        figure.legend(loc="outside right center", **legend_of(colours))
    return figure
