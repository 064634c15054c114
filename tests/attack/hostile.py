"""Hostile files and names: nothing in a file runs or takes memory, and no name is read as markup."""

import html.parser
import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from rich.console import Console

import pyroscvi as ps
from pyroscvi.fitting.checkpoints import read, write
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.report import embedding, plots

from .runner import Outcome, isolated, refusal

__all__ = ["hostile_fits", "hostile_names"]

ESCAPE = "\x1b"
NAMES = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>', "[red]x[/red]", "[/red]", "[link=http://x]y[/link]",
    "\x1b[31mred\x1b[0m",
    "$x^$", r"$\bad{$", "$5 and $6", "100% %s {x}", "a\nb", "細胞 \u202e", "", " ", "x" * 500, "_x",
    "[", "a\\[red]",
)  # fmt: skip


def _fit(cells: ps.Cells, latent: int = 2) -> Any:
    return ps.fit(SCVI(latent=latent), MeanField(), cells, epochs=1, progress=False)


@cache
def _saved() -> tuple[dict, dict]:
    """The tensors and the declaration of a fit in a file."""
    with tempfile.TemporaryDirectory() as folder:
        _fit(ps.Fields(batch="batch").read(ps.data.simulated(60, 12))).save(f"{folder}/fit")
        return read(f"{folder}/fit")


def _put(*path: Any, value: Any) -> Callable[[dict], Any]:
    def change(about: dict) -> None:
        for key in path[:-1]:
            about = about[key]
        about[path[-1]] = value

    return change


def _nested(depth: int) -> dict:
    value: dict = {"list": []}
    for _ in range(depth):
        value = {"list": [value]}
    return value


HUGE = {"class": "pyroscvi.parts.priors.Mixture", "fields": {"components": 10**8}}
CLASSES = (
    "os.system",
    "pyroscvi.__main__.main",
    "pyroscvi..x",
    "",
    ".",
    "torch.nn.Linear",
    "pyroscvi.part.Part",
    "x" * 10**5,
)
FITS: dict[str, Callable[[dict], Any]] = {
    **{f"class {name[:24]!r}": _put("model", "class", value=name) for name in CLASSES},
    **{f"model {value!r}": _put("model", value=value) for value in (3, "SCVI()", {}, None, [])},
    **{
        f"latent {v!r}": _put("model", "fields", "latent", value=v)
        for v in ("__import__('os')", -1, 10**7, 10**12, None)
    },
    **{f"{v} genes": _put("dims", "genes", value=v) for v in (-1, 11, 3 * 10**6, 10**9, 10**15, "12", None)},
    **{f"{v} batches": _put("dims", "levels", "batch", value=v) for v in (0, 10**7, 10**10, "two")},
    "a mixture of 10^8": _put("model", "fields", "prior", value=HUGE),
    "nested": _put("model", "fields", "latent", value=_nested(300)),
    "fields that are a list": _put("fields", value=[]),
    "fields of another name": _put("fields", "zzz", value=1),
    "a field of another name": _put("model", "fields", "__class__", value=3),
    "history of two lengths": _put("history", value={"a": [1], "b": [1, 2]}),
    "a record that is a list": _put("record", value=[]),
    "nothing": dict.clear,
}


def hostile_fits(seed: int) -> Outcome:
    """A file with a right checksum and a hostile declaration: it is refused in words, and fast."""
    what = list(FITS)[seed % len(FITS)]
    tensors, about = _saved()
    about = json.loads(json.dumps(about))
    FITS[what](about)

    def attack() -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            write(f"{folder}/fit", tensors, about)
            try:
                ps.load(f"{folder}/fit")
            except Exception as error:
                return refusal(error, what)
        return Outcome("accepted wrongly", what, "it was loaded")

    return isolated(attack, what, seconds=30)


class _Tags(html.parser.HTMLParser):
    """Finds tags that a name has brought into a page."""

    def __init__(self) -> None:
        super().__init__()
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        names = dict(attrs)
        if tag == "script" or any(key.startswith("on") for key in names):
            self.foreign.append(tag)


@cache
def _two_fits() -> tuple[ps.Cells, list]:
    cells = ps.Fields().read(ps.data.simulated(60, 8))
    return cells, [_fit(cells), _fit(cells, 3)]


def hostile_names(seed: int) -> Outcome:
    """Names of cells, genes, levels and fits that are markup for a page, a picture or a terminal."""
    name = NAMES[seed % len(NAMES)]
    rng = np.random.default_rng(seed)
    n, g = 40, 6
    obs = pd.DataFrame({"batch": np.where(np.arange(n) % 2, name, "b")}, index=[f"{name}{i}" for i in range(n)])
    adata = AnnData(rng.poisson(2.0, (n, g)) + 1.0, obs=obs, var=pd.DataFrame(index=[f"{name}{i}" for i in range(g)]))
    cells = ps.Fields(batch="batch").read(adata)
    held_out, fits = _two_fits()
    table = ps.compare({f"{name} one": fits[0], name or "none": fits[1]}, held_out, particles=5, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        table.report(Path(folder) / "page.html", title=name or "none")
        pages = [(Path(folder) / "page.html").read_text(), _fit(cells)._repr_html_()]
    tags = _Tags()
    for page in pages:
        tags.feed(page)
    plots.history({name: fits[0].history}).figure.savefig(io.BytesIO())
    embedding.embedding(fits[0].latent(held_out)[:n], adata.obs["batch"]).figure.savefig(io.BytesIO())
    console = Console(file=io.StringIO(), width=800, force_terminal=True, color_system=None)
    console.print(table)
    wrong = [f"a tag {tag!r} in the page" for tag in tags.foreign]
    printed = console.file.getvalue() + str(table)
    if ESCAPE + "[31m" in printed or any(ESCAPE in page for page in pages):
        wrong.append("an escape sequence reaches the terminal or the page")
    if name.strip() and name.isprintable() and len(name) < 40 and not all(word in str(table) for word in name.split()):
        wrong.append("the name is printed as another one")  # a long one is wrapped between words
    return Outcome("accepted wrongly" if wrong else "right", repr(name[:30]), "; ".join(wrong))
