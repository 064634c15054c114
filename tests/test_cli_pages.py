"""``pyroscvi list`` and ``show``, and completion: they know every page and import nothing heavy."""

import os
import subprocess
import sys
from dataclasses import fields

import pytest
from command_line import run
from rich.console import Console

import pyroscvi as ps
from pyroscvi import catalogue
from pyroscvi.cli import show


def test_list_has_every_page(capsys):
    run("list")
    printed = capsys.readouterr().out
    for name in [*ps.list_models(), *ps.list_guides()]:
        (line,) = [line for line in printed.splitlines() if line.startswith(f"{name} ")]
        assert catalogue.find(name).load().__module__  # the page can be imported
        assert len(line.split()) > 3


@pytest.mark.parametrize("name", [*ps.list_models(), *ps.list_guides()])
def test_show_prints_the_page(name, capsys):
    run("show", name)
    printed = capsys.readouterr().out
    module = sys.modules[catalogue.find(name).load().__module__]
    for line in module.__doc__.splitlines():
        assert line.rstrip() in printed
    table = [line.split()[0] for line in printed.rpartition("default")[2].splitlines() if line.split()]
    assert set(table) >= {slot.name for slot in fields(ps.create(name))}


def test_show_wraps_what_an_equation_means_beside_it(monkeypatch, capsys):
    monkeypatch.setattr(show, "terminal", lambda: Console(width=80))
    run("show", "scvi")
    printed = capsys.readouterr().out
    story = printed[: printed.index("Example:")].splitlines()
    assert all(len(line) <= 80 for line in story)
    state, cell, counts = next(story[n : n + 3] for n, line in enumerate(story) if "z ~ Normal(0, I)" in line)
    column = state.index("the state of the")
    assert cell.strip() == "cell"
    assert cell.index("cell") == counts.index("its counts") == column
    assert counts[:column].strip() == "x ~ ZINB(l softmax(f_rho(z, d)), theta, f_gate(z, d))"
    paragraph = "\n".join(story).rpartition("The softmax")[2].splitlines()
    assert all(len(line) > 60 for line in paragraph[:-2])  # filled lines, not a long and a short one in turn


def test_force_of_copy_speaks_of_the_file(capsys):
    run("copy", "--help")
    assert "Replace the files to write" in " ".join(capsys.readouterr().out.split())


def test_show_source(capsys):
    run("show", "scvi", "--source")
    assert "def model(self, cells):" in capsys.readouterr().out


def test_reading_imports_nothing_heavy():
    program = """
import sys
from pyroscvi.cli import main
for command in (["--help"], ["fit", "--help"], ["compare", "--help"], ["list"], ["show", "scvi"], ["show", "scvj"]):
    main(command)
print("heavy:", sorted({"torch", "numpy", "pandas", "scanpy", "matplotlib", "pyro"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_fit_is_imported_without_pictures_and_statistics():
    """Each of these takes a second to import, and fitting needs none of them."""
    slow = {"scipy.stats", "scipy.optimize", "matplotlib", "scanpy", "arviz"}
    program = f"import sys, pyroscvi; pyroscvi.fit; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_completion_knows_the_pages():
    words = {"COMP_WORDS": "pyroscvi show po", "COMP_CWORD": "2", "_PYROSCVI_COMPLETE": "complete_bash"}
    program = "from pyroscvi.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **words})
    assert done.stdout.split() == ["poisson_lognormal"]
