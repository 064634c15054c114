"""A comparison as one page of HTML with its pictures, which can be sent to a colleague and opened anywhere.

    ps.compare(fits, held_out).report("report.html", held_out="a tenth of every batch")

The answer comes first, in words: which model, by how much, told apart or not. Then the question, the tables, the
pictures, and the declaration of every model. The page loads nothing from elsewhere.
"""

from collections.abc import Hashable, Iterable, Mapping
from html import escape
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyroscvi import __version__
from pyroscvi.report import comparison, words
from pyroscvi.report.document import document, figure, paragraphs, safe

if TYPE_CHECKING:
    from pyroscvi.comparison.result import Comparison, GeneComparison

GLOSSARY = {
    "evidence": "mean over cells (and over seeds, if there are several) of the log probability of the counts, in nats. "
    "Higher is better. Only differences of evidences have a meaning.",
    "difference, ± s.e.": "to the best fit, and its standard error: paired over cells or clusters of cells, and over "
    "seeds if there are several.",
    "told apart": "the 95% interval of the difference does not contain 0, and it is at least 4 nats over all cells. "
    "Otherwise it is indistinguishable, which is not the same as equal. It is undecided if a fit has one seed or has "
    "not converged.",
    "weight": "of the fit in the mixture of all fits that predicts these cells best (stacking); the seeds of a fit "
    "have equal shares. Two fits with the same predictions share one weight.",
    "KL": "weight of the KL term at the end of training, the smallest of all seeds. Below 1 a fit has maximised "
    "another bound than the ELBO.",
    "active": "number of dimensions of z whose posterior mean varies between cells (variance above 0.01), of all.",
    "information": "mutual information of z and the cell, in nats, of the log of the number of cells. 0 if the "
    "posteriors of all cells are alike.",
    "components": "effective number of components of a mixture: 1 if all cells belong to one.",
    "component information": "mutual information of the component and the cell, in nats, of the log of the number of "
    "components. 0 if all components are alike.",
    "certificate": "the gap between two bounds of the evidence, measured on cells simulated from the fit. Of several "
    "seeds the largest gap.",
}


def write(result: "Comparison", file: str | Path, **options: Any) -> Path:
    """Write ``page`` into a file, and return the file."""
    Path(file).write_text(page(result, **options), "utf-8")
    return Path(file)


def summary(result: "Comparison") -> str:
    """HTML for a notebook: the answer, the table, and how reliable it is."""
    answer = " ".join(words.answer(result))
    doubts = " ".join(sentence for sentence in words.doubts(result) if sentence not in answer)
    return f"{paragraphs([answer])}{_table(result, RESULTS)}{paragraphs([doubts])}"


def page(
    result: "Comparison",
    *,
    title: str = "Which model explains these cells?",
    data: str | None = None,
    held_out: str | None = None,
    field: str | None = None,
    genes: "GeneComparison | None" = None,
    failed: Mapping[str, str] | None = None,
) -> str:
    """HTML of a comparison.

    data      a name for the cells, for the reader
    held_out  how the held-out cells were chosen: "a tenth of every donor"
    field     the categorical field whose levels have colours in the pictures; by default "label" if there is one
    genes     the result of ``compare_genes``
    failed    {name: why it could not be fitted}
    """
    field = ("label" if "label" in result.by_cell["cell"] else None) if field is None else field
    size = f"{len(result.table)} fits, {len(result.by_cell):,} held-out cells, {result.genes:,} genes"
    parts = [
        f"<h1>{safe(title)}</h1>",
        f'<p class="aside">{safe(f"{data}: " if data else "")}{size}; pyroscvi {__version__}</p>',
        f'<div class="answer">{paragraphs([" ".join(words.answer(result))])}</div>',
        "<h2>The question</h2>" + paragraphs(words.asked(result, held_out)),
        "<h2>How reliable it is</h2>" + paragraphs([" ".join(words.trusted(result))]),
        "<h2>Results</h2>" + _table(result, RESULTS) + _failed(failed or {}),
        "<h2>How much of each model is used</h2>" + _table(result, USAGE),
        "<h2>Pictures</h2>" + "".join(_figures(result, field)),
        "" if genes is None else _genes(genes, any(len(fit.seeds) > 1 for fit in result.fits.values())),
        "<h2>Models</h2>" + "".join(_model(result, name) for name in result.table.index),
        _glossary(),
    ]
    return document(title, parts)


RESULTS = ("fit", "evidence", "difference", "± s.e.", "verdict", "weight", "certificate")
USAGE = ("fit", "KL", "active", "information", "components", "component information", "parameters", "seconds")
LEFT = ("fit", "verdict", "certificate")


def _table(result: "Comparison", columns: Iterable[str]) -> str:
    """Some columns of every fit; columns that are empty for all fits are left out."""
    rows = [(row["verdict"] == "best", _row(result, name, row)) for name, row in result.table.iterrows()]
    shown = [column for column in columns if any(cells[column] for _, cells in rows)]
    head = "".join(f"<th{_left(column)}>{column}</th>" for column in shown)
    body = ""
    for best, cells in rows:
        row = "".join(f"<td{_left(column)}>{cells[column]}</td>" for column in shown)
        body += f'<tr class="best">{row}</tr>' if best else f"<tr>{row}</tr>"
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _left(column: str) -> str:
    return ' class="word"' if column in LEFT else ""


def _row(result: "Comparison", name: Hashable, row: pd.Series) -> dict[str, str]:
    best = row["verdict"] == "best"
    colour = {"told apart": "apart", "indistinguishable": "alike"}.get(row["verdict"], "")
    return {
        "fit": safe(words.marked(name, row)),
        "evidence": words.minus(row["evidence"], 3),
        "difference": "" if best else words.minus(row["difference"], 3),
        "± s.e.": "" if best else f"{row['standard_error']:.3f}",
        "verdict": f'<span class="{colour}">{row["verdict"]}</span>',
        "weight": f"{row['weight']:.2f}",
        "certificate": escape(str(row["certificate"])),
        "KL": _number(row["kl_weight"], ".2f"),
        "active": _of(round(row["active_units"], 1), result.fits[str(name)].latent, "g"),
        "information": _of(row["information"], result.max_information, ".1f"),
        "components": _number(row["components"], ".1f"),
        "component information": _of(row["component_information"], log(row["components"]), ".2f"),
        "parameters": f"{row['parameters']:,}",
        "seconds": _number(row["seconds"], ",.0f"),
    }


def _of(value: float, largest: float | None, digits: str) -> str:
    """A number, and the largest that is possible."""
    number = _number(value, digits)
    return f"{number} of {format(largest, digits)}" if number and largest is not None else number


def _number(value: float, digits: str) -> str:
    return "" if pd.isna(value) else format(value, digits)


def _failed(failed: Mapping[str, str]) -> str:
    return paragraphs(f"{name} could not be fitted: {why}" for name, why in failed.items())


def _figures(result: "Comparison", field: str | None) -> Iterable[str]:
    by = f", by {field}," if field else ""
    median = "; the dark line is a running median" if len(result.by_cell) >= comparison.MIN_CELLS_OF_MEDIAN else ""
    yield figure(result.plot(), "Differences to the best fit, with their 95% intervals.")
    if len(result.table) < 2:
        return
    yield figure(
        comparison.by_cell(result, field),
        "Every held-out cell: its log evidence less that under the best fit, against its counts. Above zero the other "
        f"fit explains the cell better{median}.",
    )
    yield figure(
        comparison.winners(result, field),
        f"The share of the cells{by} that each fit explains best, by however small a difference.",
    )
    if comparison.varies_in_width(result):
        yield figure(comparison.by_latent(result), "Evidence against the dimensions of z.")


def _genes(genes: "GeneComparison", several: bool) -> str:
    text = words.genes_answer(genes) + (" Both fits are those with the first seed." if several else "")
    picture = figure(genes.plot(), "The genes on which the two fits differ most.")
    return f"<h2>Genes</h2>{paragraphs([text])}{picture}"


def _model(result: "Comparison", name: str) -> str:
    fit, seeds = result.fits[name], len(result.fits[name].seeds)
    cells = fit.seeds[0].get("cells", {})
    spread = f"a standard deviation of {result.table.loc[name, 'seed_sd']:.3f} nats a cell"
    facts = {
        "model": f"<code>{safe(fit.model)}</code>",
        "guide": f"<code>{safe(fit.guide)}</code>",
        "fitted to": f"{cells['train']:,} cells, and {cells['held_out']:,} held out in training" if cells else "",
        "epochs": "; ".join(filter(None, map(_epochs, fit.seeds))),
        "seeds": f"{seeds}{f', with {spread} between them' if seeds > 1 else ''}",
    }
    text = "".join(f"<dt>{fact}</dt><dd>{value}</dd>" for fact, value in facts.items() if value)
    return f"<details><summary>{safe(name)}</summary><dl>{text}</dl></details>"


def _epochs(fitted: Mapping[str, Any]) -> str:
    if "epochs" not in fitted:
        return ""
    best = f", of which the state after {fitted['best_epoch']} was kept" if fitted.get("best_epoch") else ""
    return f"{fitted['epochs']}{best}{', stopped early' if fitted.get('stopped_early') else ''}"


def _glossary() -> str:
    text = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in GLOSSARY.items())
    return f"<h2>Words</h2><details><summary>What the columns mean</summary><dl>{text}</dl></details>"
