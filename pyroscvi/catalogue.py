"""The catalogue: every file in models/ and guides/ is a page by existing, and so is the entry point of a plug-in.

Pages are found and read as text: to list, show and complete them takes no import of torch. ``Page.load`` imports one.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pyroscvi.names import among, snake

if TYPE_CHECKING:
    from pyroscvi.program import Guide, Model, Program

Kind = Literal["models", "guides"]
HOUSE = Path(__file__).parent
HOMES = ("", "interop", "models", "guides", "parts")  # folders whose files define parts


@dataclass(frozen=True)
class Page:
    """A file of the zoo, or of a plug-in.

    name    its name in the catalogue: that of the file, or of the entry point
    kind    "models" or "guides"
    module  the module that defines its class
    text    the file, as it is written; empty where a plug-in has no source
    entry   the entry point of a plug-in
    """

    name: str
    kind: Kind
    module: str
    text: str
    entry: EntryPoint | None = None

    def load(self) -> "type[Program]":
        """The class of the page, imported."""
        if self.entry is not None:
            return self.entry.load()
        module = import_module(self.module)
        (public,) = module.__all__
        return getattr(module, public)

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""

    @property
    def headline(self) -> str:
        return self.docstring.partition("\n")[0]

    @property
    def slots(self) -> list[tuple[str, str, str]]:
        """Name, type and default of every slot, inherited ones first."""
        own = next((node for node in self.tree.body if isinstance(node, ast.ClassDef)), None)
        slots = {slot[0]: slot for slot in (_slots(own) if own else ()) if "ClassVar" not in slot[1]}
        return list(slots.values())


def pages() -> dict[str, Page]:
    """Every page of the catalogue by name, models first."""
    return {page.name: page for kind in get_args(Kind) for page in sorted(_of_kind(kind), key=lambda page: page.name)}


def find(name: str) -> Page:
    """The page of this name; ValueError, with the nearest name, if there is none."""
    return among(name, pages(), "page")


def list_models() -> list[str]:
    """Names of the models of the zoo, plug-ins included."""
    return [page.name for page in pages().values() if page.kind == "models"]


def list_guides() -> list[str]:
    """Names of the guides of the zoo, plug-ins included."""
    return [page.name for page in pages().values() if page.kind == "guides"]


def create(name: str, **slots: Any) -> "Model | Guide":
    """Declare a page of the catalogue by its name: ``create("scvi", likelihood=NB())``."""
    return find(name).load()(**slots)  # type: ignore[return-value]


def public_class(package: str, name: str) -> Any:
    """The class ``name`` of models or guides, whose file has its name in snake case; imported when it is asked for."""
    file = HOUSE / package.rpartition(".")[2] / f"{snake(name)}.py"
    public = getattr(import_module(f"{package}.{file.stem}"), name, None) if file.is_file() else None
    if public is None:
        raise AttributeError(f"module {package!r} has no page {name!r}")
    return public


def modules() -> set[str]:
    """Names of all modules that define parts: those of the library and those of plug-ins. None is imported."""
    plugged = {entry.module for kind in get_args(Kind) for entry in entry_points(group=f"pyroscvi.{kind}")}
    own = [("pyroscvi", home, file.stem) for home in HOMES for file in (HOUSE / home).glob("*.py")]
    return plugged | {".".join(filter(None, names)) for names in own}


def _of_kind(kind: Kind) -> Iterator[Page]:
    for file in (HOUSE / kind).glob("[!_]*.py"):
        yield Page(file.stem, kind, f"pyroscvi.{kind}.{file.stem}", file.read_text("utf-8"))
    for entry in entry_points(group=f"pyroscvi.{kind}"):
        yield Page(entry.name, kind, entry.module, _source(entry), entry)


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
    """The classes that a page may inherit slots from."""
    texts = [(HOUSE / "program.py").read_text("utf-8"), *(page.text for page in pages().values())]
    return {node.name: node for text in texts for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
