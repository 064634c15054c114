"""A page of HTML with its pictures in it, which can be sent to a colleague and opened anywhere."""

import base64
from collections.abc import Callable, Iterable, Mapping
from html import escape
from io import BytesIO
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pyroscvi.names import printable

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
figure { margin: 1.2rem 0; overflow-x: auto; } img { max-width: max(100%, 44rem); height: auto; }
code { font-size: .85rem; } details { margin: .35rem 0; } summary { cursor: pointer; }
dt { font-weight: 600; margin-top: .5rem; } dd { margin-left: 1.2rem; color: #444; }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """The page of these parts; those that are empty are left out."""
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{safe(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def safe(text: object) -> str:
    """Text in which nothing is HTML."""
    return escape(printable(text))


def paragraphs(texts: Iterable[str]) -> str:
    """A paragraph for each text."""
    return "".join(f"<p>{safe(text)}</p>" for text in texts)


def bullets(texts: Iterable[str]) -> str:
    """A list with an item for each text."""
    return f"<ul>{''.join(f'<li>{safe(text)}</li>' for text in texts)}</ul>"


def rows(table: pd.DataFrame, formats: Mapping[str, Callable[[Any], str]] | None = None) -> str:
    """A table without its index; numbers as the ``formats`` of their columns say, text on the left."""
    formats = formats or {}
    left = {name: "" if pd.api.types.is_numeric_dtype(table[name]) else ' class="word"' for name in table}
    head = "".join(f"<th{left[name]}>{safe(name)}</th>" for name in table)
    body = "".join(
        f"<tr>{''.join(f'<td{left[name]}>{safe(formats.get(name, str)(row[name]))}</td>' for name in table)}</tr>"
        for _, row in table.iterrows()
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(drawn: Figure, caption: str) -> str:
    """A picture, in the page itself, and what it shows."""
    file = BytesIO()
    drawn.savefig(file, format="png", dpi=160, bbox_inches="tight")
    code = base64.b64encode(file.getvalue()).decode()
    width = round(drawn.get_figwidth() * 110)
    return (
        f'<figure><img alt="{safe(caption)}" width="{width}" src="data:image/png;base64,{code}">'
        f"<figcaption>{safe(caption)}</figcaption></figure>"
    )
