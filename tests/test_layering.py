"""Imports run one way. ``FLOORS`` is the architecture; ARCHITECTURE.md describes it in words."""

import ast
import re
from pathlib import Path

import pytest

from pyroscvi import _HOME

ROOT = Path(__file__).parent.parent
FLOORS = [  # lowest first; a file imports from lower floors and from its own room, and from no other room of its floor
    {"advice", "names", "ranges", "sites", "torch_internals"},
    {"pyro_internals", "catalogue"},
    {"part", "distributions", "handlers"},
    {"data"},
    {"parts"},
    {"program"},
    {"models", "guides"},
    {"inference"},
    {"evidence"},
    {"analysis"},
    {"report"},
    {"calibration"},
    {"fitting"},
    {"comparison"},
    {"interop", "sugar"},
    {"workflow"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: level for level, floor in enumerate(FLOORS) for room in floor}
SOURCES = sorted([*(ROOT / "pyroscvi").rglob("*.py"), *(ROOT / "models").glob("*.py"), *(ROOT / "guides").glob("*.py")])


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path):
    """Absolute names that a file imports from the package, anywhere in it, type checking aside."""
    tree = ast.parse(path.read_text())
    checked = {id(node) for block in ast.walk(tree) if _is_type_checking(block) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in checked:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pyroscvi":
            if node.module == "pyroscvi":
                yield from (f"pyroscvi.{_HOME.get(alias.name, alias.name)}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "pyroscvi")


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def name(path: Path) -> str:
    relative = path.relative_to(ROOT)
    parts = relative.with_suffix("").parts
    return ".".join(parts if parts[0] == "pyroscvi" else ("pyroscvi", *parts))


FILES = {name(path): path for path in SOURCES if path.name != "__init__.py" or path.parent.name != "pyroscvi"}


@pytest.mark.parametrize("module", FILES)
def test_imports_run_one_way(module):
    here = room(module)
    assert here in FLOOR, f"{module} has no floor: add it to FLOORS"
    for imported in imports(FILES[module]):
        other = room(imported)
        if other and other != here and not other.startswith("__"):
            assert FLOOR[other] < FLOOR[here], f"{module} is on floor {FLOOR[here]}, {imported} on floor {FLOOR[other]}"


@pytest.mark.parametrize("module", [m for m in FILES if m.startswith("pyroscvi.models.") and not m.endswith("__")])
def test_a_model_page_stands_alone(module):
    for other in imports(FILES[module]):
        assert not other.startswith(("pyroscvi.models", "pyroscvi.guides", "pyroscvi.inference")), other


def test_sample_sites_are_recognised_in_one_file():
    assert [module for module, path in FILES.items() if "site_is_subsample" in path.read_text()] == ["pyroscvi.sites"]


@pytest.mark.parametrize("room", ["comparison", "evidence"])
def test_the_map_of_a_room_has_its_files(room):
    folder = ROOT / "pyroscvi" / room
    rows = re.findall(r"^ *([a-z_]+) {2,}\S", ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), re.M)
    assert sorted(rows) == sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__")


@pytest.mark.parametrize("module", FILES)
def test_files_are_short(module):
    assert len(FILES[module].read_text().splitlines()) <= 400
