"""A comparison as one page of HTML, pictures and all, that can be sent to a colleague and opened anywhere.

    write(ps.compare(fits, held_out), "report.html", held_out="a tenth of every batch")

Words come first: which model, by how much, told apart or not, and what was asked. Then the table, the pictures, and
every model as it was declared. Nothing is loaded from elsewhere.
"""

import base64
from collections.abc import Iterable, Mapping
from html import escape
from io import BytesIO
from math import log
from pathlib import Path
from typing import Any

import pandas as pd

from pyroscvi import __version__
from pyroscvi.comparison.usage import AMONG
from pyroscvi.report import comparison, plots, words

__all__ = ["page", "write"]

STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.aside, figcaption, summary + p { color: #666; font-size: .9rem; }
.answer { font-size: 1.12rem; border-left: 4px solid #3f90da; padding: .1rem 0 .1rem 1rem; }
.answer p { margin: .4rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .6rem; text-align: right; border-bottom: 1px solid #e5e5e5; white-space: nowrap; }
th { color: #666; font-weight: 500; vertical-align: bottom; } td.word, th.word { text-align: left; }
tr.best td { font-weight: 600; } .apart { color: #b34700; } .alike { color: #1f6fb2; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
code { font-size: .85rem; } details { margin: .35rem 0; } summary { cursor: pointer; }
dt { font-weight: 600; margin-top: .5rem; } dd { margin-left: 1.2rem; color: #444; }
"""

WORDS = {
    "evidence": "mean over cells, and over seeds where there are several, of the log probability of the counts, in "
    "nats. Higher is better; its size means nothing but in a difference.",
    "difference, ± s.e.": "to the best fit, and its standard error: paired over cells or clusters of cells, and over "
    "seeds where there are several.",
    "told apart": "the difference is at least two standard errors and at least 4 nats over all cells; otherwise it is "
    "indistinguishable, which is not the same as equal.",
    "weight": "of stacking: the mixture of all fits, each its seeds in equal shares, that predicts these cells best. "
    "Two fits that say the same share one.",
    "KL": "weight of the KL term at the end of training, the least of all seeds. Below 1 a fit has not arrived at its "
    "bound.",
    "active": "dimensions of z whose posterior mean varies from cell to cell by more than 0.01 (variance), of all.",
    "information": "what z tells of which cell it is, in nats, of the log of the cells. 0 if the posteriors of all "
    "cells are alike.",
    "components": "effective number of components of a mixture: 1 if all cells are of one.",
    "component information": "what the component tells of the cell, in nats, of the log of the components. 0 if "
    "several components are all alike.",
    "certificate": "measured on cells simulated from the fit: how far apart two bounds of the evidence are. Of several "
    "seeds the widest.",
}


def write(table: pd.DataFrame, file: str | Path, **options: Any) -> Path:
    """``page`` into a file."""
    Path(file).write_text(page(table, **options), "utf-8")
    return Path(file)


def page(
    table: pd.DataFrame,
    *,
    title: str = "Which model explains these cells?",
    data: str | None = None,
    held_out: str | None = None,
    field: str | None = None,
    genes: pd.DataFrame | None = None,
    failed: Mapping[str, str] | None = None,
) -> str:
    """HTML of a table of ``compare``.

    data      what the cells are, for the reader
    held_out  how the cells were kept from the fits: "a tenth of every donor"
    field     the categorical field by which pictures tell cells apart; by default "label", or none
    genes     of ``compare_genes``
    failed    {name: why it could not be fitted}
    """
    known = table.attrs["groups"]
    field = ("label" if "label" in known else None) if field is None else field
    told = f"{len(table)} fits, {len(table.attrs['cells']):,} held-out cells, {table.attrs['genes']:,} genes"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="aside">{escape(f"{data}: " if data else "")}{told}; pyroscvi {__version__}</p>',
        f'<div class="answer">{_paragraphs([" ".join(words.answer(table))])}</div>',
        "<h2>What was asked</h2>" + _paragraphs(words.asked(table, held_out)),
        "<h2>How far to trust it</h2>" + _paragraphs([" ".join(words.trusted(table))]),
        "<h2>What was found</h2>" + _table(table, FOUND) + _failed(failed or {}),
        "<h2>What the fits make use of</h2>" + _table(table, MADE),
        "<h2>Pictures</h2>" + "".join(_figures(table, field)),
        "" if genes is None else _genes(genes, max(table.attrs["seeds"].values()) > 1),
        "<h2>Models</h2>" + "".join(_model(table, name) for name in table.index),
        _glossary(),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


FOUND = ("fit", "evidence", "difference", "± s.e.", "verdict", "weight", "certificate")
MADE = ("fit", "KL", "active", "information", "components", "component information", "parameters", "seconds")
LEFT = ("fit", "verdict", "certificate")


def _table(table: pd.DataFrame, columns: Iterable[str]) -> str:
    """Some columns of every fit; those of which none of the fits has anything are left out."""
    rows = [(row["verdict"] == "best", _row(table, str(name), row)) for name, row in table.iterrows()]
    shown = [column for column in columns if any(cells[column] for _, cells in rows)]
    head = "".join(f"<th{_left(column)}>{column}</th>" for column in shown)
    body = ""
    for best, cells in rows:
        told = "".join(f"<td{_left(column)}>{cells[column]}</td>" for column in shown)
        body += f'<tr class="best">{told}</tr>' if best else f"<tr>{told}</tr>"
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _left(column: str) -> str:
    return ' class="word"' if column in LEFT else ""


def _row(table: pd.DataFrame, name: str, row: pd.Series) -> dict[str, str]:
    best = row["verdict"] == "best"
    colour = {"told apart": "apart", "indistinguishable": "alike"}.get(row["verdict"], "")
    cells = min(len(table.attrs["cells"]), AMONG)
    return {
        "fit": escape(name),
        "evidence": words.minus(row["evidence"], 3),
        "difference": "" if best else words.minus(row["difference"], 3),
        "± s.e.": "" if best else f"{row['standard_error']:.3f}",
        "verdict": f'<span class="{colour}">{row["verdict"]}</span>',
        "weight": f"{row['weight']:.2f}",
        "certificate": escape(str(row["certificate"])),
        "KL": _number(row["kl_weight"], ".2f"),
        "active": _of(round(row["active_units"], 1), table.attrs["latent"].get(name), "g"),
        "information": _of(row["information"], log(cells), ".1f"),
        "components": _number(row["components"], ".1f"),
        "component information": _of(row["component_information"], log(row["components"]), ".2f"),
        "parameters": f"{row['parameters']:,}",
        "seconds": _number(row["seconds"], ",.0f"),
    }


def _of(value: float, most: float | None, digits: str) -> str:
    """A number, and what it can be at most."""
    told = _number(value, digits)
    return f"{told} of {format(most, digits)}" if told and most is not None else told


def _number(value: float, digits: str) -> str:
    return "" if pd.isna(value) else format(value, digits)


def _failed(failed: Mapping[str, str]) -> str:
    return "".join(f"<p>{escape(name)} could not be fitted: {escape(why)}</p>" for name, why in failed.items())


def _figures(table: pd.DataFrame, field: str | None) -> Iterable[str]:
    by = f", by {field}," if field else ""
    yield _figure(plots.comparison(table), "Differences to the best fit, with two standard errors to either side.")
    if len(table) < 2:
        return
    yield _figure(
        comparison.by_cell(table, field),
        "Every held-out cell: its log evidence less that under the best fit, against its counts. Above zero the other "
        "fit explains the cell better; the dark line is a running median.",
    )
    yield _figure(
        comparison.winners(table, field), f"How many of the cells{by} each fit explains best, if only by a little."
    )
    if comparison.varies_in_width(table):
        yield _figure(comparison.by_latent(table), "Evidence against the dimensions of z.")


def _genes(genes: pd.DataFrame, several: bool) -> str:
    first, second = genes.attrs["first"], genes.attrs["second"]
    counts = genes["verdict"].value_counts()
    said = (
        f"Of {len(genes):,} genes, {counts.get(first, 0):,} are predicted better by {first} and "
        f"{counts.get(second, 0):,} by {second}; the others are not told apart, at a false discovery rate of 5%. A "
        "gene's number is how much more probable its counts are, given the other genes of the cell; these numbers do "
        "not add up to an evidence."
    ) + (" Both fits are those with the first seed." if several else "")
    picture = _figure(comparison.by_gene(genes), "The genes on which the two fits differ most.")
    return f"<h2>Genes</h2>{_paragraphs([said])}{picture}"


def _model(table: pd.DataFrame, name: str) -> str:
    model, guide = table.attrs["declared"][name]
    fitted, seeds = table.attrs["fitted"][name], table.attrs["seeds"][name]
    cells = fitted[0].get("cells", {})
    facts = {
        "model": f"<code>{escape(model)}</code>",
        "guide": f"<code>{escape(guide)}</code>",
        "fitted to": f"{cells['train']:,} cells, and {cells['held_out']:,} to stop by" if cells else "",
        "epochs": "; ".join(filter(None, map(_epochs, fitted))),
        "seeds": f"{seeds}, with a standard deviation of {table.loc[name, 'refits']:.3f} nats a cell between them"
        if seeds > 1
        else "1",
    }
    told = "".join(f"<dt>{fact}</dt><dd>{value}</dd>" for fact, value in facts.items() if value)
    return f"<details><summary>{escape(name)}</summary><dl>{told}</dl></details>"


def _epochs(fitted: Mapping[str, Any]) -> str:
    if "epochs" not in fitted:
        return ""
    best = f", of which the state after {fitted['best_epoch']} was kept" if fitted.get("best_epoch") else ""
    return f"{fitted['epochs']}{best}{', stopped early' if fitted.get('stopped_early') else ''}"


def _glossary() -> str:
    told = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in WORDS.items())
    return f"<h2>Words</h2><details><summary>What the columns mean</summary><dl>{told}</dl></details>"


def _figure(drawn: Any, caption: str) -> str:
    figure = getattr(drawn, "figure", drawn)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=160)
    code = base64.b64encode(file.getvalue()).decode()
    alt = escape(caption, quote=True)
    width = round(figure.get_figwidth() * 110)
    return (
        f'<figure><img alt="{alt}" width="{width}" src="data:image/png;base64,{code}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
