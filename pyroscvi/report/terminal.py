"""Tables of results for a terminal. Names are shown as they are: markup and control characters have no effect."""

from collections.abc import Mapping
from io import StringIO
from shutil import get_terminal_size
from typing import TYPE_CHECKING

import pandas as pd
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from pyroscvi.names import printable
from pyroscvi.report import words

if TYPE_CHECKING:
    from pyroscvi.comparison.result import Comparison, GeneComparison

SHOWN_GENES = 10


class Printed:
    """Prints as a table: with colours and as wide as the terminal by rich, and as plain text by ``print``.

    Where there is no terminal, it is 80 columns wide.
    """

    def __rich__(self) -> RenderableType:
        raise NotImplementedError

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=max(get_terminal_size().columns, 80), color_system=None)
        console.print(self)
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in lines).strip("\n")


def comparison(result: "Comparison") -> Table:
    """One row for each fit, with the verdicts, and below it how reliable the numbers are."""
    table = result.table
    certified = (table["certificate"] != "uncertified").any()  # if not, a sentence below the table says so
    title = f"Held-out log {table['estimand'].iloc[0]} of {len(result.by_cell):,} cells, in nats a cell"
    picture = _table(title, words.doubts(result), "fit")
    picture.add_column("evidence", justify="right", no_wrap=True)
    picture.add_column("difference", justify="right", no_wrap=True)
    picture.add_column("verdict", no_wrap=True)
    picture.add_column("weight", justify="right", no_wrap=True)
    if certified:
        picture.add_column("certificate", min_width=11)
    for name, row in table.iterrows():
        best = row["verdict"] == "best"
        cells = [
            f"{row['evidence']:.3f}",
            "" if best else f"{row['difference']:.3f} ± {row['standard_error']:.3f}",
            row["verdict"],
            f"{row['weight']:.2f}",
            *([row["certificate"]] if certified else []),
        ]
        picture.add_row(_text(words.marked(name, row)), *cells, style="bold" if best else None)
    return picture


def genes(result: "GeneComparison") -> Table:
    """The genes that either fit predicts better, ten at most of each, and below it how many there are."""
    table = result.table
    picture = _table(
        f"{result.first} against {result.second}, {result.cells:,} cells", [words.genes_answer(result)], "gene"
    )
    for heading in ("predicted", "± s.e.", "zeros", "mean", "q value"):
        picture.add_column(heading, justify="right", no_wrap=True)
    picture.add_column("better by", overflow="fold")
    shown = table if len(table) <= 2 * SHOWN_GENES else pd.concat([table.head(SHOWN_GENES), table.tail(SHOWN_GENES)])
    for place, (name, row) in enumerate(shown.iterrows(), 1):
        numbers = (f"{row['predicted']:.1f}", f"{row['predicted_error']:.1f}", f"{row['zeros']:.0%}")
        picture.add_row(
            _text(name), *numbers, f"{row['mean']:.3g}", f"{row['q_value']:.2g}", _text(row["verdict"]),
            end_section=place == SHOWN_GENES < len(table) - SHOWN_GENES,
        )  # fmt: skip
    return picture


def numbers(table: pd.DataFrame, title: str, form: Mapping[str, str]) -> Table:
    """A table of numbers, each column in its own form: {"p": ".2g"}; a column without one is shown as it is."""
    picture = _table(title, [], str(table.index.name))
    for heading in table.columns:
        picture.add_column(heading, justify="right")
    for name, row in table.iterrows():
        picture.add_row(_text(name), *(_text(format(row[heading], form.get(heading, ""))) for heading in table.columns))
    return picture


def _table(title: str, caption: list[str], names: str) -> Table:
    sentences = Text("\n").join([Text(), *map(_text, caption)])
    table = Table(
        title=_text(title), caption=sentences, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
        collapse_padding=True, title_justify="left", caption_justify="left",
    )  # fmt: skip
    table.add_column(names, overflow="fold")
    return table


def _text(value: object) -> Text:
    return Text(printable(value))
