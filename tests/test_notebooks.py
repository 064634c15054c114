"""Every chapter runs, its assertions hold, and the committed notebook has the cells of its source."""

import re
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import nbformat
import pyro
import pytest
import torch

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
CHAPTERS = sorted(NOTEBOOKS.glob("[0-9]*.py"))


def test_chapters_are_numbered_without_gaps_and_are_in_the_table():
    numbers = [int(source.stem[:2]) for source in CHAPTERS]
    titles = [re.search(r"^# # (\d+)\. ", source.read_text(), re.M) for source in CHAPTERS]
    table = (NOTEBOOKS / "README.md").read_text()
    assert numbers == [int(title.group(1)) for title in titles if title] == list(range(1, len(CHAPTERS) + 1))
    assert [source.name for source in CHAPTERS if f"({source.stem}.ipynb)" not in table] == []


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_every_chapter_has_a_picture_an_assertion_that_fails_and_exercises_with_solutions(source):
    parts = ("plt.show()", "except AssertionError as", "assert failed", "# ## Exercises", "# ### Solutions")
    assert [part for part in parts if part not in source.read_text("utf-8")] == []


def test_a_third_of_the_chapters_use_real_cells():
    real = [source for source in CHAPTERS if "= pbmc68k_reduced()" in source.read_text("utf-8")]
    assert len(real) >= len(CHAPTERS) / 3


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_the_committed_notebook_has_the_cells_of_its_source_and_was_run(source):
    """``python notebooks/run.py`` writes the notebook from the source."""
    written = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert [cell.source for cell in written.cells] == [cell.source for cell in jupytext.read(source).cells]
    assert all(cell.execution_count for cell in written.cells if cell.cell_type == "code")


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of matplotlib, which is given tensors
@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_the_chapter_runs(source, tmp_path, monkeypatch):
    """In this process, which has imported the library already; ``notebooks/run.py`` runs chapters in a kernel."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    with torch.random.fork_rng(), pyro.get_param_store().scope():
        exec(compile(source.read_text(), source, "exec"), {"__name__": "__main__"})
