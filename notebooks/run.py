"""Run chapters and save them as notebooks with their output: ``python notebooks/run.py [01_a_first_model ...]``."""

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def is_shown(output: dict) -> bool:
    """False for warnings, and for the generator that torch.manual_seed returns."""
    return output.get("name") != "stderr" and "<torch._C.Generator" not in output.get("data", {}).get("text/plain", "")


for source in sorted(HERE.glob("[0-9]*.py")):
    if not sys.argv[1:] or source.stem in sys.argv[1:]:
        notebook = jupytext.read(source)
        here = {"metadata": {"path": str(HERE)}}  # matplotlibrc there keeps figures small
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=here, coalesce_streams=True)
        client.execute()  # what one cell prints stays in one piece
        notebook.metadata = {"kernelspec": KERNEL}
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number}"
            cell.metadata = {}  # contains execution times, which differ in every run
            cell.get("outputs", [])[:] = [out for out in cell.get("outputs", []) if is_shown(out)]
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(f"{source.stem}: {len(notebook.cells)} cells")
