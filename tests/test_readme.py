"""README and site: the README is short, code and commands run, tables list the catalogue, every name is documented."""

import ast
import inspect
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from test_layering import FLOORS

import pyroscvi as ps
from pyroscvi.catalogue import pages
from pyroscvi.cli import main
from pyroscvi.data.datasets import simulated

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


PYTHON = (ROOT / "docs" / "python.md").read_text("utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def small(code: str) -> str:
    """The same with few epochs, fewer fits and posterior samples, and as many genes as the small file has."""
    code = re.sub(r"(epochs[= ])\d+", r"\g<1>2", code).replace("2000", "12")
    return code.replace("--latent 5 10 20", "--latent 5 --seeds 1").replace("(fits, held_out)", "(fits, held_out, 20)")


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """The working directory of the README's examples, with a small file of the name that they read."""
    adata = simulated(cells=60, genes=12, seed=0)
    adata.obs["donor"] = adata.obs["batch"]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_is_shown_in_full():
    text = (ROOT / "models" / "scvi.py").read_text("utf-8")
    (shown,) = [block for block in blocks("python") if block.startswith("class ")]
    (page,) = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert shown.strip() == ast.get_source_segment(text, page)


def test_python_blocks_run(cells, capsys):
    names: dict = {}
    declaring = PYTHON.partition("## Declaring")[2].partition("\n## ")[0]
    for block in [*blocks("python"), *blocks("python", declaring)]:
        if not block.startswith("class "):
            exec(compile(small(block), "README.md", "exec"), names)
    assert names["adata"].obsm["X_pyroscvi"].shape == (60, 10)
    printed = capsys.readouterr().out
    assert "nb + mixture" in printed
    assert "uncertified" in printed
    assert "[2 rows" not in printed
    assert {fit.model.estimand for fit in names["fits"].values()} == {"p(x)"}
    assert ps.load("nb.safetensors").latent(names["cells"]).shape == (60, 10)
    assert names["loss"] > 0


def test_shell_blocks_run(cells, monkeypatch):
    monkeypatch.setattr("pyroscvi.report.embedding.projection", lambda z, *_, **__: z[:, :2])
    commands = [line for block in blocks("sh")[2:] for line in small(block).splitlines()]
    assert {shlex.split(command)[1] for command in commands} == {"fit", "compare", "embed"}
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "pyroscvi"
        short = ["--epochs", "2"] if arguments[0] != "embed" and "--out" in arguments else []
        assert main([*arguments, *short]) == 0
    assert {file.name for file in cells.glob("*.png")} == {"comparison.png", "umap.png"}


def test_the_readme_is_short():
    assert len(README.splitlines()) < 150


def test_the_two_commands():
    first, second = (block.strip() for block in blocks("sh")[:2])
    for command in (first, second):
        assert len(command.splitlines()) == 1
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt ")
    assert first.endswith(". && .venv/bin/pyroscvi demo")
    assert second.endswith('-e ".[test]" && .venv/bin/python -m pytest -n 2')
    assert second.removesuffix(" -n 2") in " && ".join(
        line.strip() for line in (ROOT / "CONTRIBUTING.md").read_text("utf-8").splitlines()
    )


def test_continuous_integration_runs_the_second_command():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    extraction = re.search(r"^tests=.*$", script.read_text("utf-8"), flags=re.MULTILINE)
    assert extraction
    done = subprocess.run(
        ["bash", "-c", f'{extraction[0]}; printf "%s" "$tests"'], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == blocks("sh")[1].strip()


def test_the_tables_list_the_catalogue():
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\(\w+/\w+\.py\) \| (.*?) \|$", README, flags=re.MULTILINE))
    assert rows == {name: page.headline for name, page in pages().items()}


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_links_point_to_existing_files(link):
    assert (ROOT / link).exists()


def test_the_site_documents_every_public_name():
    """``docs/api/`` has every function and class of ``import pyroscvi``, and the functions behind ``Fit``."""
    text = "".join(file.read_text("utf-8") for file in (ROOT / "docs" / "api").glob("*.md"))
    documented = set(re.findall(r"(?:autofunction|autoclass):: pyroscvi\.([\w.]+)$", text, flags=re.MULTILINE))
    assert documented >= {name for name in ps.__all__ if callable(getattr(ps, name))}
    methods = {name for name, value in vars(ps.Fit).items() if inspect.isfunction(value) and name[0] != "_"}
    assert not {name for name in methods if not re.search(rf"(?:autofunction:: .*\.|members: .*|, |`){name}\b", text)}


def test_the_architecture_lists_the_floors():
    """The block of ARCHITECTURE.md below "lowest first" is ``test_layering.FLOORS``."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8").partition("lowest first:\n\n")[2].partition("\n\n")[0]
    listed = [set(line.strip().split(", ")) for line in text.splitlines()]
    assert listed == [floor - {"__main__"} for floor in FLOORS if floor != {"__main__"}]
