"""Configuration of the site. What can be generated is generated here: the zoo, the course, the command line."""

import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pyroscvi
from pyroscvi.catalogue import pages

project = "pyroscvi"
author = "The pyroscvi authors"
release = pyroscvi.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "sphinx_book_theme"
html_title = "pyroscvi"
html_static_path = ["_static"]
html_extra_path = ["_extra"]
html_css_files = ["width.css"]
myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests execute them
exclude_patterns = ["_build", "_extra", "README.md"]
autodoc_member_order = "bysource"
suppress_warnings = ["myst.xref_missing"]  # the README links to files of the repository

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import_module("zoo").write(HERE / "zoo", list(pages().values()))

(HERE / "course").mkdir(exist_ok=True)
for chapter in (HERE.parent / "notebooks").glob("[0-9]*.ipynb"):
    shutil.copy(chapter, HERE / "course")

command = [sys.executable, "-m", "typer", "pyroscvi.cli", "utils", "docs", "--name", "pyroscvi"]
told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
(HERE / "command_line.md").write_text(told.replace("# `pyroscvi`", "# The command line", 1), "utf-8")

# For programs: the catalogue as JSON, and where to read what.
(HERE / "_extra").mkdir(exist_ok=True)
catalogue = [
    {"name": page.name, "kind": page.kind, "headline": page.headline, "slots": page.slots, "page": page.docstring}
    for page in pages().values()
]
(HERE / "_extra" / "catalogue.json").write_text(json.dumps(catalogue, indent=1), "utf-8")
(HERE / "_extra" / "llms.txt").write_text(
    "# pyroscvi\n\n> A zoo of probabilistic programs in Pyro for single-cell and spatial counts.\n\n"
    "## Models and guides\n\n"
    + "".join(f"- [{page.name}](zoo/{page.kind}/{page.name}.html): {page.headline}\n" for page in pages().values())
    + "\n## More\n\n- [The catalogue as JSON](catalogue.json)\n- [From Python](python.html)\n"
    "- [The command line](command_line.html)\n- [How evidence is estimated and certified](evidence.html)\n",
    "utf-8",
)


def setup(app):
    """Show docstrings as plain text: they have columns and equations, and are not markup."""

    def as_it_stands(app, what, name, thing, options, lines):
        lines[:] = [".. code-block:: text", "", *(f"    {line}" for line in lines), ""] if any(lines) else []

    app.connect("autodoc-process-docstring", as_it_stands)
