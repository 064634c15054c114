"""Pictures of a comparison, cell by cell: where models differ, and which of them is better there.

    result = ps.compare(fits, held_out)
    by_cell(result, "cell_type")             differences to the best fit against library size
    winners(result, "cell_type")             for the cells of every type, the share that each fit explains best
    by_latent(result)                        evidence against the dimensions of z
    by_gene(ps.compare_genes(two, held_out))

``report.plots.comparison`` draws the differences themselves, with their standard errors.
"""

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyroscvi.report.labels import label
from pyroscvi.report.plots import COLOURS, FAINT, INK, legend_of, palette, panels, quiet
from pyroscvi.report.words import has_not_converged, marked

if TYPE_CHECKING:
    from pyroscvi.comparison.result import Comparison, GeneComparison

MIN_CELLS_OF_MEDIAN = 30
MAX_PANELS = 6  # the best fits; more panels would be too small to read
MAX_GROUPS = 10  # the largest groups; the others are drawn as one
EVERYONE, OTHERS = "all cells", "others"


def by_cell(result: "Comparison", field: str | None = None) -> Figure:
    """log p(x_n) of every fit less that of the best fit, against the library size of the cell; a panel for each fit.

    Cells are coloured by their level of ``field``; black lines are running medians, where there are 30 cells or more.
    Differences are clipped to their 1st and 99th percentile, so that a few extreme cells do not set the scale.
    ValueError if there is only one fit.
    """
    if len(result.table) < 2:
        raise ValueError("there is only one fit, and so no difference to draw")
    evidence, library, group = _arranged(result, field)
    best, *others = result.table.index[: MAX_PANELS + 1]
    colours = _coloured(group)
    figure, each = panels(len(others), 3, (2.7, 2.4), (1.9, 0.4), sharex=True)
    order = np.random.default_rng(0).permutation(len(group))
    size = float(np.clip(4000 / len(group), 2, 14))
    library, shades = library.clip(min=1), [colours[group.iloc[n]] for n in order]
    for panel, other in zip(each, others, strict=True):
        difference = (evidence[other] - evidence[best]).to_numpy()
        shown = difference.clip(*np.quantile(difference, [0.01, 0.99]))
        panel.scatter(library[order], shown[order], s=size, c=shades, linewidths=0, alpha=0.8)
        if len(difference) >= MIN_CELLS_OF_MEDIAN:
            panel.plot(*_running_median(library, difference), color=INK, linewidth=1.4)
        panel.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
        _log_scale(panel, library)
        panel.set_title(label(marked(other, result.table.loc[other]), 32, 2), fontsize=8, color=INK, loc="left")
        quiet(panel, 7)
    figure.supxlabel("counts of the cell", fontsize=8.5, color=INK)
    figure.supylabel(
        f"log evidence less that of\n{label(marked(best, result.table.loc[best]), 30, 2)} (nats)",
        fontsize=8.5,
        color=INK,
    )
    if field is not None:
        figure.legend(loc="outside right center", **legend_of(colours))
    return figure


def winners(result: "Comparison", field: str | None = None) -> Figure:
    """For the cells of every level of ``field``, the share whose evidence is highest under each fit."""
    evidence, _, group = _arranged(result, field)
    names = list(result.table.index)
    first = evidence[names].idxmax(axis=1)
    often = list(first.value_counts().index[: MAX_GROUPS - 1])
    shown = [name for name in names if name in often]  # in the order of the table, best first
    first = first.where(first.isin(shown), OTHERS)
    shown += [OTHERS] if (first == OTHERS).any() else []
    colours = palette(shown, OTHERS)
    rows = [EVERYONE] if field is None else [EVERYONE, *group.value_counts().index]
    legend = 0.3 + sum(0.19 * (1 + label(name).count("\n")) for name in shown)
    figure = Figure(figsize=(7.4, max(0.9 + 0.27 * len(rows), legend)), dpi=200, layout="constrained")
    ax = figure.subplots()
    for row, level in enumerate(rows):
        cells = first if row == 0 else first[group == level]
        left = 0.0
        for name, colour in colours.items():
            share = float((cells == name).mean())
            ax.barh(row, share, left=left, color=colour, height=0.72, edgecolor="white", linewidth=0.6)
            left += share
        ax.annotate(
            f"{len(cells):,}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=7, color=FAINT
        )
    ax.set_yticks(range(len(rows)), [label(row, 22, 1) for row in rows], fontsize=8)
    ax.get_yticklabels()[0].set_fontweight("bold")
    ax.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
    ax.set_xlabel("share of the cells that the fit explains best", fontsize=8.5, color=INK)
    ax.annotate("cells", (1.01, 1), xycoords="axes fraction", va="bottom", fontsize=7, color=FAINT)
    quiet(ax, 7.5)
    ax.tick_params(axis="y", length=0)
    called = {name: name if name == OTHERS else marked(name, result.table.loc[name]) for name in shown}
    figure.legend(loc="outside right upper", **legend_of({called[name]: colours[name] for name in shown}, "s"))
    return figure


def by_latent(result: "Comparison") -> Figure:
    """Evidence against the dimensions of z: a line for fits that differ in nothing else, bars of 95% intervals.

    Intervals are those of the difference to the best of all fits. The mark of a fit that has not converged is open.
    ValueError if no two fits differ in the dimensions of z alone.
    """
    families = _families(result)
    if not families:
        raise ValueError("no two fits differ in the width of z alone: declare latent=[5, 10, 20]")
    widths = {name: fit.latent or 0 for name, fit in result.fits.items()}
    figure = Figure(figsize=(6.6, 3.2), dpi=200, layout="constrained")
    ax = figure.subplots()
    for place, (family, members) in enumerate(families.items()):
        aside = 1.02 ** (place - (len(families) - 1) / 2)  # so that bars do not hide each other
        rows = result.table.loc[sorted(members, key=lambda name: widths[name])]
        at = [widths[name] * aside for name in rows.index]
        bars: dict[str, Any] = {"linewidth": 1.4, "elinewidth": 1, "marker": "o", "markersize": 4}
        colour = COLOURS[place % len(COLOURS)]
        ax.errorbar(at, rows["difference"], yerr=rows["interval"], color=colour, label=label(family), **bars)
        unfinished = [has_not_converged(row) for _, row in rows.iterrows()]
        ax.plot(np.array(at)[unfinished], rows["difference"][unfinished], "o", color="white", markersize=2.5, zorder=9)
    ax.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
    ax.set_xscale("log")
    ax.minorticks_off()
    ticks = sorted({widths[name] for members in families.values() for name in members})
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xlabel("dimensions of z", fontsize=8.5, color=INK)
    ax.set_ylabel("difference to the best, nats a cell\n(bars: 95% intervals)", fontsize=8.5, color=INK)
    quiet(ax, 7.5)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def varies_in_width(result: "Comparison") -> bool:
    """Whether two fits differ in the dimensions of z, and in nothing else."""
    return bool(_families(result))


def by_gene(result: "GeneComparison", most: int = 12) -> Figure:
    """The genes that either of two fits predicts better: nats over all cells, and two standard errors."""
    genes = result.table
    ahead = genes[genes["predicted"] > 0].head(most)
    behind = genes[genes["predicted"] < 0].tail(most)
    figure = Figure(figsize=(7.4, 0.95 + 0.2 * max(len(ahead), len(behind), 2)), dpi=200, layout="constrained")
    sides = ((result.first, ahead), (result.second, behind.iloc[::-1]))
    for ax, (better, rows), colour in zip(figure.subplots(1, 2), sides, COLOURS, strict=False):
        total = rows["predicted"].abs().to_numpy()
        apart = (rows["verdict"] != "indistinguishable").to_numpy()
        at, reach = np.arange(len(rows)), 2 * rows["predicted_error"]
        ax.hlines(at, total - reach, total + reach, color=colour, linewidth=1.4)
        ax.scatter(total, at, s=24, facecolors=[colour if a else "white" for a in apart], edgecolors=[colour], zorder=3)
        ax.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
        ax.set_yticks(at, [label(gene, 18, 1) for gene in rows.index], fontsize=7.5)
        ax.set_ylim(max(len(ahead), len(behind), 1) - 0.5, -0.5)
        ax.set_title(f"better by {label(better, 30, 2)}", fontsize=8.5, color=INK, loc="left")
        quiet(ax, 7.5)
        ax.tick_params(axis="y", length=0)
    figure.supxlabel("nats over all cells (bars: 2 s.e.; filled: told apart)", fontsize=8.5, color=INK)
    return figure


def _arranged(result: "Comparison", field: str | None) -> tuple[pd.DataFrame, np.ndarray, pd.Series]:
    """Evidences under their names, library sizes, and the group of every cell; rare groups are put together."""
    cells = result.by_cell["cell"]
    if field is not None and field not in cells.columns[1:]:
        known = ", ".join(cells.columns[1:]) or "none"
        raise KeyError(f"these cells have no categorical field {field!r}; the fields are: {known}")
    group = pd.Series(EVERYONE, index=cells.index) if field is None else cells[field].astype(str)
    common = group.value_counts().index[: MAX_GROUPS if group.nunique() <= MAX_GROUPS else MAX_GROUPS - 1]
    return result.by_cell["log_evidence"], cells["library_size"].to_numpy(), group.where(group.isin(common), OTHERS)


def _families(result: "Comparison") -> dict[str, list[str]]:
    """Names of fits that are alike but for the dimensions of z, under a name for what they have in common."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name in result.table.index:
        fit = result.fits[name]
        if isinstance(fit.latent, int):
            model = re.sub(rf"\blatent={fit.latent}(, )?", "", fit.model)
            alike.setdefault((model, fit.guide), []).append(name)
    several = [members for members in alike.values() if len({result.fits[name].latent for name in members}) > 1]
    return {_common(members[0], result.fits[members[0]].latent): members for members in several}


def _common(name: str, latent: int | None) -> str:
    """A name without its "latent 5"."""
    return ", ".join(word for word in name.split(", ") if word != f"latent {latent}") or "evidence"


def _running_median(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians of x and y in tenths of the cells, or fewer parts where there are few cells."""
    parts = np.array_split(np.argsort(x, kind="stable"), min(len(x) // 15, 10))
    return np.array([np.median(x[part]) for part in parts]), np.array([np.median(y[part]) for part in parts])


def _coloured(group: pd.Series) -> dict[str, str]:
    return palette(list(group.value_counts().index), OTHERS)


def _log_scale(ax: Axes, values: np.ndarray) -> None:
    """Ticks at 1, 2 and 5 times a power of ten, written out; at the ends where that leaves none."""
    ax.set_xscale("log")
    powers = range(math.floor(math.log10(values.min())), math.ceil(math.log10(values.max())) + 1)
    round_ones = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    ticks = [tick for tick in round_ones if values.min() <= tick <= values.max()] or [values.min(), values.max()]
    ax.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    ax.minorticks_off()
