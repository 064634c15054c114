"""Configuration of the site: the README, every page of the zoo, and the documented names of the library."""

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
html_css_files = ["width.css"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests execute them
exclude_patterns = ["_build", "README.md"]
autodoc_member_order = "bysource"
suppress_warnings = ["myst.xref_missing"]  # the README links to files of the repository

sys.path.insert(0, str(Path(__file__).parent))
zoo = import_module("zoo")
zoo.write(Path(__file__).parent / "zoo", list(pages().values()))


def setup(app):
    """Show docstrings as plain text: they have columns and equations, and are not markup."""

    def as_it_stands(app, what, name, thing, options, lines):
        lines[:] = [".. code-block:: text", "", *(f"    {line}" for line in lines), ""] if any(lines) else []

    app.connect("autodoc-process-docstring", as_it_stands)
