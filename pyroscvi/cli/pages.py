"""The pages of the catalogue as text: to list, show and complete them takes no import of torch."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from pyroscvi.names import among

__all__ = ["Page", "find", "pages"]

HOUSE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Page:
    """A file of the zoo, or of a plug-in: its name, its kind (models, guides) and its text."""

    name: str
    kind: str
    text: str

    @property
    def docstring(self) -> str:
        return ast.get_docstring(ast.parse(self.text)) or ""

    @property
    def headline(self) -> str:
        return self.docstring.partition("\n")[0]

    @property
    def slots(self) -> list[tuple[str, str, str]]:
        """Name, type and default of what may be swapped, inherited slots first."""
        own = next((node for node in ast.parse(self.text).body if isinstance(node, ast.ClassDef)), None)
        found = {slot[0]: slot for slot in (_slots(own) if own else ()) if "ClassVar" not in slot[1]}
        return list(found.values())


def pages() -> dict[str, Page]:
    """Every page of the catalogue by name, models first."""
    found = {}
    for kind in ("models", "guides"):
        own = [Page(file.stem, kind, file.read_text("utf-8")) for file in (HOUSE / kind).glob("[!_]*.py")]
        theirs = [Page(entry.name, kind, _source(entry)) for entry in entry_points(group=f"pyroscvi.{kind}")]
        found.update({page.name: page for page in sorted([*own, *theirs], key=lambda page: page.name)})
    return found


def find(name: str) -> Page:
    """The page of this name; ValueError, with the nearest name, if there is none."""
    return among(name, pages(), "page")


def _source(entry: EntryPoint) -> str:
    spec = find_spec(entry.module)
    return Path(spec.origin).read_text("utf-8") if spec and spec.origin and Path(spec.origin).suffix == ".py" else ""


def _slots(own: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    for base in own.bases:
        if isinstance(base, ast.Name) and base.id in _classes():
            yield from _slots(_classes()[base.id])
    for node in own.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, ast.unparse(node.annotation), ast.unparse(node.value)


@cache
def _classes() -> dict[str, ast.ClassDef]:
    """What a page may inherit slots from."""
    texts = [(HOUSE / "program.py").read_text("utf-8"), *(page.text for page in pages().values())]
    return {node.name: node for text in texts for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
