"""``pyroscvi list``, ``show`` and ``copy``: the catalogue, a page, and a copy of a page."""

import ast
import re
import shlex
from itertools import groupby
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from pyroscvi.catalogue import Page, find, pages
from pyroscvi.cli.app import ForceFiles, Json, PageName, app, option
from pyroscvi.cli.output import check_free, draw, say, terminal
from pyroscvi.names import snake

EQUATION = re.compile(r"( +[^\s|+>.].*?(?: ~ | = ).*\S) {2,}(\S(?: ?\S)*)")  # and, to its right, what it means


@app.command("list", rich_help_panel="Read")
def list_pages(json: Json = False) -> None:
    """List the models and guides, one line each."""
    console, every = terminal(), pages().values()
    if json:
        about = ("name", "kind", "headline", "docstring")
        slots = {page.name: [dict(zip(("name", "takes", "default"), slot, strict=True)) for slot in page.slots]
                 for page in every}  # fmt: skip
        say(dumps([{**{key: getattr(page, key) for key in about}, "slots": slots[page.name]} for page in every]))
        return
    for kind in ("models", "guides"):
        table = Table(box=None, show_header=False, title=kind, title_justify="left", title_style="bold", pad_edge=False)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column()
        for page in every:
            if page.kind == kind:
                table.add_row(page.name, escape(page.headline))
        console.print(table, "")
    console.print("[dim]pyroscvi show PAGE[/dim] prints one in full.", highlight=False)


@app.command("show", rich_help_panel="Read")
def show(
    page: PageName,
    source: Annotated[bool, option("Print the source code of the page.", "--source")] = False,
    plates: Annotated[Path | None, option("Draw the plate diagram of a model.", "--plates", metavar="FILE.svg")] = None,
    force: ForceFiles = False,
) -> None:
    """Print a page: its generative process, references, and the parts that can be replaced."""
    shown, console = find(page), terminal()
    if plates is not None:
        _draw(shown, plates, force)
        return
    if source:
        console.print(Syntax(shown.text.rstrip(), "python", theme="ansi_dark", background_color="default"))
        return
    headline, _, story = shown.docstring.partition("\n")
    console.print(f"[bold]{escape(headline)}[/bold]", highlight=False)
    for kind, lines in groupby(story.splitlines(), _kind):
        block = list(lines)
        if kind == "plain" or max(map(len, block)) <= console.width:
            for line in block:
                console.print(_styled(line), highlight=False, soft_wrap=True)
        else:
            console.print(escape(" ".join(block)) if kind == "prose" else _equations(block, console), highlight=False)
    if shown.slots:
        console.print("", _slots(shown))


@app.command("copy", rich_help_panel="Read")
def copy(
    page: PageName,
    file: Annotated[Path, typer.Argument(help="The file to write.", metavar="FILE.py")],
    force: ForceFiles = False,
) -> None:
    """Copy a page to a file that you can edit, and fit with `--model FILE.py`."""
    copied = find(page)
    if file.suffix != ".py":
        raise ValueError(f"{file} is no Python file: name it {file.stem}.py")
    renamed, text = _renamed(copied, file.stem)
    check_free(file, force=force)
    file.write_text(text, "utf-8")
    option = f"--{copied.kind.removesuffix('s')} {shlex.quote(str(file))}"
    say(f"{file}: a copy of {copied.name} to edit; its class is called {renamed}.")
    say(f"Fit it with `pyroscvi fit DATA.h5ad {option} --out RUN`")


def _draw(page: Page, file: Path, force: bool) -> None:
    if page.kind != "models":
        raise ValueError(f"{page.name} is a guide: only models have a plate diagram")
    from pyroscvi.report.plates import example_cells, plates  # matplotlib takes a second to import

    check_free(file, force=force)
    cells = example_cells()
    say(f"{draw(file, plates(page.load()().sized(cells.dims), cells))}: the plate diagram of {page.name}")


def _renamed(page: Page, stem: str) -> tuple[str, str]:
    """A name for the class of a copy, made of the name of its file, and the copy: two pages must not print alike."""
    classes = (node.name for node in page.tree.body if isinstance(node, ast.ClassDef))
    (name,) = (one for one in classes if f'["{one}"]' in page.text)
    if snake(name) == stem:
        return name, page.text
    renamed = "".join(word[0].upper() + word[1:] for word in re.findall(r"[^\W_]+", stem))
    if not renamed.isidentifier():
        raise ValueError(f"{stem}.py gives its class no name: call the file something that begins with a letter")
    lines, end = page.text.splitlines(keepends=True), page.tree.body[0].end_lineno or 0  # of the docstring
    is_code = [i >= end or line.lstrip().startswith((">>> ", "... ")) for i, line in enumerate(lines)]
    as_code = (re.sub(rf"\b{name}\b", renamed, line) for line in lines)
    return renamed, "".join(new if code else old for code, new, old in zip(is_code, as_code, lines, strict=True))


def _styled(line: str) -> str:
    """A line of a docstring: what is sampled is coloured, headings are bold, all else is plain."""
    sampled = re.match(r"( *)(\w+)( ~ )(.*?)(\s{2,}.*)?$", line)
    if sampled:
        indent, site, follows, law, meaning = (escape(group or "") for group in sampled.groups())
        return f"{indent}[bold cyan]{site}[/bold cyan]{follows}[cyan]{law}[/cyan]{meaning}"
    heading = re.match(r"(References|Plate diagram:?)$", line)
    return f"[bold]{line}[/bold]" if heading else escape(line)


def _kind(line: str) -> str:
    if EQUATION.fullmatch(line):
        return "equations"
    return "prose" if line[:1].strip() else "plain"


def _equations(lines: list[str], console: Console) -> Table:
    """Equations, and beside each of them its meaning, in a column of its own where it can wrap."""
    pairs = [match.groups() for match in map(EQUATION.fullmatch, lines) if match]
    table = Table.grid(padding=(0, 2, 0, 0))
    longest = max(len(equation) for equation, _ in pairs)
    table.add_column(no_wrap=longest + 14 <= console.width, overflow="fold")
    for equation, meaning in pairs:
        table.add_row(_styled(equation), escape(meaning))
    return table


def _slots(page: Page) -> Table:
    table = Table("slot", "takes", "default", box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name, kind, default in page.slots:
        table.add_row(f"[cyan]{name}[/cyan]", escape(kind), escape(default))
    return table
