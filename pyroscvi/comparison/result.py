"""The result of a comparison: it prints as a readable table, and can be drawn or written as a page of HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from math import log, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from pyroscvi.comparison.usage import MAX_CELLS
from pyroscvi.report.terminal import Printed

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table


class Behind(NamedTuple):
    """A model that is behind another one which it contains, in nats a cell."""

    larger: str
    smaller: str
    by: float
    standard_error: float


class FitSummary(NamedTuple):
    """One of the fits that are compared.

    model, guide   the declarations, as they print
    latent         dimensions of z; None if the model has no z
    seeds          one record for each seed: "seed", "epochs", "best_epoch", "cells", "stopped_early"
    """

    model: str
    guide: str
    latent: int | None
    seeds: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Comparison(Printed):
    """The held-out evidence of several fits on the same cells. ``compare`` returns it.

    table      one row for each fit, best first; ``compare`` explains the columns
    by_cell    one row for each cell, with columns under three headings: "cell" (its library size, and the name of its
               level in every categorical field), "log_evidence" and "monte_carlo_se" (of every fit, in nats; the mean
               over its seeds, and the standard error of that mean)
    fits       {name: FitSummary}
    genes      number of genes
    particles  posterior samples for each cell
    by         the field whose levels are the clusters; None if errors are over cells
    clusters   number of clusters
    behind     models that are behind a model which they contain, by more than chance
    optimism   how much better the best of these fits is expected to appear than it is, if all are equally good, in
               nats a cell: ``selection``
    available  number of held-out cells that were given; those that a budget left out are not in ``by_cell``
    looks      how often the verdicts could be looked at: intervals are wider for it
    """

    table: pd.DataFrame
    by_cell: pd.DataFrame = field(repr=False)
    fits: Mapping[str, FitSummary]
    genes: int
    particles: int
    by: str | None = None
    clusters: int | None = None
    behind: Sequence[Behind] = ()
    optimism: float = nan
    available: int | None = None
    looks: int = 1

    @property
    def max_information(self) -> float:
        """The largest possible ``information`` in nats: the log of the number of cells that it is estimated from."""
        return log(min(len(self.by_cell), MAX_CELLS))

    def plot(self) -> "Figure":
        """Differences to the best fit with two standard errors: ``report.plots.comparison``."""
        from pyroscvi.report.plots import comparison

        figure: Any = comparison(self).figure
        return figure

    def report(self, file: str | Path, **options: Any) -> Path:
        """Write one page of HTML with words, tables and pictures; ``options`` are those of ``report.html.page``."""
        from pyroscvi.report.html import write

        return write(self, file, **options)

    def __rich__(self) -> "Table":
        from pyroscvi.report.terminal import comparison

        return comparison(self)

    def __repr__(self) -> str:
        return f"Comparison({len(self.table)} fits, {len(self.by_cell):,} cells: {self.table.index[0]!r} is the best)"

    def _repr_html_(self) -> str:
        from pyroscvi.report.html import summary

        return summary(self)


@dataclass(frozen=True, eq=False)
class GeneComparison(Printed):
    """The first of two fits against the second, gene by gene. ``compare_genes`` returns it.

    table          one row for each gene; ``compare_genes`` explains the columns
    first, second  names of the fits
    cells          number of cells
    """

    table: pd.DataFrame
    first: str
    second: str
    cells: int

    def plot(self, most: int = 12) -> "Figure":
        """The genes on which the fits differ most: ``report.comparison.by_gene``."""
        from pyroscvi.report.comparison import by_gene

        return by_gene(self, most)

    def __rich__(self) -> "Table":
        from pyroscvi.report.terminal import genes

        return genes(self)

    def __repr__(self) -> str:
        return (
            f"GeneComparison({self.first!r} against {self.second!r}, {len(self.table):,} genes, {self.cells:,} cells)"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
