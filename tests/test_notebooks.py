"""Every chapter runs from top to bottom, its assertions hold, and what is committed is what its source says."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
CHAPTERS = sorted(NOTEBOOKS.glob("[0-9]*.py"))


def test_there_are_chapters():
    assert len(CHAPTERS) >= 3


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_committed_notebook_is_its_source(source):
    """``python notebooks/run.py`` makes one of the other."""
    written = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert [cell.source for cell in written.cells] == [cell.source for cell in jupytext.read(source).cells]
    assert all(cell.execution_count for cell in written.cells if cell.cell_type == "code")


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_runs(source, tmp_path):
    notebook = jupytext.read(source)
    kernel = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=kernel).execute()
