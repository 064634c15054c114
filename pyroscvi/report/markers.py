"""A picture of marker genes: how high every gene is in every group of cells."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pyroscvi.report.labels import label
from pyroscvi.report.plots import INK, quiet

MAX_GROUPS, MAX_GENES = 40, 60


def best_markers(table: pd.DataFrame, each: int = 3) -> pd.DataFrame:
    """The rows of the genes that are called higher in a group than in the rest, by group.

    The best of each group come first: those whose interval begins highest, so that a change is large and sure.
    """
    higher = table[table["changed"] & (table["log2_fold_change"] > 0)]
    best = higher.sort_values("low", ascending=False, kind="stable").groupby("group", sort=False).head(each)
    return best.sort_values("group", key=in_order, kind="stable")


def in_order(names: pd.Series) -> pd.Series:
    """Ranks of names of groups: numbers by their size, other names as they come."""
    numbers = pd.to_numeric(names, errors="coerce")
    return pd.Series(pd.factorize(names)[0], index=names.index) if numbers.isna().any() else numbers


def heatmap(table: pd.DataFrame, each: int = 3) -> Figure:
    """Groups by their best marker genes; colours are log2 fold changes of the group against the rest.

    table   of ``Fit.differential`` of every group against the rest
    """
    groups = list(dict.fromkeys(table.sort_values("group", key=in_order, kind="stable")["group"]))[:MAX_GROUPS]
    best = best_markers(table, each).set_index("group")
    genes = list(dict.fromkeys(gene for group in groups if group in best.index for gene in best.loc[[group], "gene"]))
    genes = genes[:MAX_GENES]
    values = table.pivot_table(index="group", columns="gene", values="log2_fold_change", observed=True)
    values = values.loc[groups, genes].to_numpy()
    most = float(np.clip(np.abs(values).max(initial=1), 1, 4))
    figure = Figure(figsize=(1.6 + 0.19 * len(genes), 1.3 + 0.22 * len(groups)), dpi=200, layout="constrained")
    ax = figure.subplots()
    drawn = ax.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    quiet(ax, 7)
    ax.spines[:].set_visible(False)
    ax.set_xticks(range(len(genes)), [label(gene, 16) for gene in genes], rotation=90)
    ax.set_yticks(range(len(groups)), [label(group, 24) for group in groups])
    ax.tick_params(length=0)
    bar = figure.colorbar(drawn, ax=ax, shrink=0.8, aspect=12, pad=0.01)
    bar.set_label("log2 fold change", fontsize=7, color=INK)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)
    return figure
