"""Every chapter runs, its assertions hold, and the committed notebook has the cells of its source."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
CHAPTERS = sorted(NOTEBOOKS.glob("[0-9]*.py"))


def test_there_are_at_least_three_chapters():
    assert len(CHAPTERS) >= 3


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_the_committed_notebook_has_the_cells_of_its_source_and_was_run(source):
    """``python notebooks/run.py`` writes the notebook from the source."""
    written = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert [cell.source for cell in written.cells] == [cell.source for cell in jupytext.read(source).cells]
    assert all(cell.execution_count for cell in written.cells if cell.cell_type == "code")


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_the_chapter_runs(source, tmp_path):
    notebook = jupytext.read(source)
    kernel = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=kernel).execute()
