"""The site: guides by task run, docstrings become markup with every argument, and every option is on a page."""

import inspect
import re
import sys
from importlib import import_module
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import pyroscvi as ps
from pyroscvi import parts
from pyroscvi.catalogue import pages
from pyroscvi.data import simulated
from pyroscvi.part import kinds

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))
import docstrings  # noqa: E402
import equations  # noqa: E402
import examples  # noqa: E402
import options  # noqa: E402
import zoo  # noqa: E402

TASKS = sorted((DOCS / "how").glob("*.md"))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The working directory of the guides by task, with small files of the names that they read."""
    monkeypatch.chdir(tmp_path)
    adata = simulated(cells=80, genes=15, seed=0)
    adata.obs["donor"] = pd.Categorical.from_codes(np.arange(80) % 4, ["p1", "p2", "p3", "p4"])
    adata.obs["condition"] = pd.Categorical.from_codes(np.arange(80) // 4 % 2, ["control", "treated"])
    adata.write_h5ad("cells.h5ad")
    adata.write_h5ad("query_all_genes.h5ad")
    adata[:, 3:].write_h5ad("query.h5ad")
    simulated(cells=60, genes=15, sections=1, seed=0).write_h5ad("tissue.h5ad")
    table = pd.DataFrame(adata.X.toarray().astype(int), adata.obs_names, adata.var_names)
    table.to_csv("counts.csv")
    adata.obs[["cell_type"]].rename_axis("cell").to_csv("types.tsv", sep="\t")


@pytest.mark.filterwarnings("ignore:.*genes.*:UserWarning", "ignore:.*types are .*:UserWarning")
@pytest.mark.parametrize("task", TASKS, ids=lambda file: file.stem)
def test_a_guide_by_task_runs(task, files, capsys):
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```$", task.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL):
        code = re.sub(r"epochs=\d+", "epochs=2", block).replace("(fits, held_out)", "(fits, held_out, 20)")
        code = code.replace("epochs=2)  # three", "epochs=2, seeds=1)  # three")
        exec(compile(code, task.name, "exec"), names)
    fit = names.get("fit")
    assert fit is None or isinstance(fit, ps.Fit)


def test_every_argument_has_its_type_and_default_beside_what_it_means():
    def scaled(x: "float", by: float | None = 2.0, *, seed: int = 0) -> float:
        """x times a factor.

        by    the factor; None is 1
        seed  of nothing

        Raises ValueError for a factor of zero, and KeyError never.
        """

    takes, _ = docstrings.arguments(scaled)
    assert docstrings.signature(scaled) == ("(x, by=2.0, *, seed=0)", "float")
    text = "\n".join(docstrings.restructured(inspect.getdoc(scaled), takes))
    assert "**x** :kind:`float`" in text
    assert "**by** :kind:`float | None = 2.0`\n        the factor; None is 1" in text
    assert "**Raises** ``ValueError`` for a factor of zero, and ``KeyError`` never." in text


def test_equations_and_references_of_a_docstring_are_set():
    takes, _ = docstrings.arguments(parts.Mixture)
    text = "\n".join(docstrings.restructured(inspect.getdoc(parts.Mixture), takes))
    assert r"k \sim \mathrm{Categorical}(w)" in text
    assert "**components** :kind:`PositiveInt = 8`" in text
    assert docstrings.text("[Kingma, 2016, arXiv:1606.04934]") == (
        "[Kingma, 2016, `arXiv:1606.04934 <https://arxiv.org/abs/1606.04934>`__]"
    )


@pytest.mark.parametrize(
    ("written", "set_as"),
    [
        ("z ~ Dirichlet(a, .., a)", r"z \sim \mathrm{Dirichlet}(a, \dots, a)"),
        ("v_k (1 - v_1) .. (1 - v_{k-1})", r"v_{k}\ (1\ -\ v_{1}) \cdots (1\ -\ v_{k-1})"),
        ("n = 1 .. N", r"n=1, \dots, N"),
    ],
)
def test_dots_and_indices_of_an_equation(written, set_as):
    assert equations.tex(written) == set_as


def documented():
    text = "".join(file.read_text("utf-8") for file in (DOCS / "api").glob("*.md"))
    names = re.findall(r"auto(?:function|class):: pyroscvi\.([\w.]+)$", text, flags=re.MULTILINE)
    things = {name: import_module(f"pyroscvi.{'.'.join(name.split('.')[:-1])}".rstrip(".")) for name in names}
    return {name: getattr(module, name.rpartition(".")[2]) for name, module in things.items()}


@pytest.mark.parametrize("thing", [pytest.param(thing, id=name) for name, thing in documented().items()])
def test_no_list_of_a_docstring_is_left_as_text(thing):
    """Three spaces in a row within a paragraph are the column of a list that was not recognised as one."""
    takes, _ = docstrings.arguments(thing)
    lines, code = [], False
    for line in docstrings.restructured(inspect.getdoc(thing), takes):
        code = line.startswith((".. code", ".. raw")) or (code and (not line or line.startswith(" ")))
        lines += [] if code else [line]
    assert not [line for line in lines if re.search(r"\S {3,}\S", line)]


def test_every_part_is_on_the_page_of_its_slot():
    slots = [
        getattr(import_module(f"pyroscvi.{path.rpartition('.')[0]}"), path.rpartition(".")[2])
        for _, path, *_ in options.SLOTS.values()
    ]
    shown = {part.__name__ for slot in slots for part in {slot, *kinds(slot)}}
    assert set(parts.__all__) <= shown


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("name", [*examples.MODELS, *examples.GUIDES])
def test_an_example_of_the_zoo_runs(name):
    code = examples.example(name)
    few = code.replace("cells=300", "cells=60").replace("size=300", "size=60").replace("epochs=60", "epochs=1")
    assert few.count("epochs=1") == 1
    exec(compile(few, name, "exec"), {})
    assert plt.gcf().axes
    plt.close("all")


def test_every_model_of_the_zoo_has_its_plate_diagram_on_its_page():
    models = [page for page in pages().values() if page.kind == "models"]
    assert [page.name for page in models if "(drawn.svg)" not in zoo.markdown(page, "drawn.svg", [])] == []


def test_every_page_of_the_zoo_has_an_example_and_its_picture():
    assert set(pages()) == {*examples.MODELS, *examples.GUIDES}
    assert set(pages()) == {file.stem for file in examples.PICTURES.glob("*.png")}
