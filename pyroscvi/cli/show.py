"""``pyroscvi list``, ``show`` and ``copy``: the catalogue, a page, and a copy of a page."""

import ast
import re
import shlex
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from pyroscvi.catalogue import Page, find, pages
from pyroscvi.cli.output import check_free, say, terminal
from pyroscvi.names import snake

__all__ = ["copy_page", "print_catalogue", "print_page"]


def print_catalogue() -> None:
    console = terminal()
    for kind in ("models", "guides"):
        table = Table(box=None, show_header=False, title=kind, title_justify="left", title_style="bold", pad_edge=False)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column()
        for page in pages().values():
            if page.kind == kind:
                table.add_row(page.name, escape(page.headline))
        console.print(table, "")
    console.print("[dim]pyroscvi show PAGE[/dim] prints one in full.", highlight=False)


def print_page(name: str, source: bool = False) -> None:
    page, console = find(name), terminal()
    if source:
        console.print(Syntax(page.text.rstrip(), "python", theme="ansi_dark", background_color="default"))
        return
    headline, _, story = page.docstring.partition("\n")
    console.print(f"[bold]{escape(headline)}[/bold]", highlight=False, soft_wrap=True)
    for line in story.splitlines():
        console.print(_styled(line), highlight=False, soft_wrap=True)
    if page.slots:
        console.print("", _slots(page))


def copy_page(name: str, file: Path, force: bool = False) -> None:
    page = find(name)
    if file.suffix != ".py":
        raise ValueError(f"{file} is no Python file: name it {file.stem}.py")
    renamed, text = _renamed(page, file.stem)
    check_free(file, force=force)
    file.write_text(text, "utf-8")
    option = f"--{page.kind.removesuffix('s')} {shlex.quote(str(file))}"
    say(f"{file}: a copy of {page.name} to edit; its class is called {renamed}.")
    say(f"Fit it with `pyroscvi fit DATA.h5ad {option} --out RUN`")


def _renamed(page: Page, stem: str) -> tuple[str, str]:
    """A name for the class of a copy, made of the name of its file, and the copy: two pages must not print alike."""
    classes = (node.name for node in page.tree.body if isinstance(node, ast.ClassDef))
    (name,) = (one for one in classes if f'["{one}"]' in page.text)
    if snake(name) == stem:
        return name, page.text
    renamed = "".join(word[0].upper() + word[1:] for word in re.findall(r"[^\W_]+", stem))
    if not renamed.isidentifier():
        raise ValueError(f"{stem}.py gives its class no name: call the file something that begins with a letter")
    lines, end = page.text.splitlines(keepends=True), page.tree.body[0].end_lineno  # of the docstring
    return renamed, "".join([*lines[:end], *(re.sub(rf"\b{name}\b", renamed, line) for line in lines[end:])])


def _styled(line: str) -> str:
    """A line of a docstring: what is sampled is coloured, headings are bold, all else is plain."""
    sampled = re.match(r"( *)(\w+)( ~ )(.*?)(\s{2,}.*)?$", line)
    if sampled:
        indent, site, follows, law, meaning = (escape(group or "") for group in sampled.groups())
        return f"{indent}[bold cyan]{site}[/bold cyan]{follows}[cyan]{law}[/cyan]{meaning}"
    heading = re.match(r"(References|Plate diagram:?)$", line)
    return f"[bold]{line}[/bold]" if heading else escape(line)


def _slots(page: Page) -> Table:
    table = Table("slot", "takes", "default", box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name, kind, default in page.slots:
        table.add_row(f"[cyan]{name}[/cyan]", escape(kind), escape(default))
    return table
