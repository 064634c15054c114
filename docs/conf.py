"""Configuration of the site: the README, every page of the zoo, and the documented names of the library."""

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
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests execute them
exclude_patterns = ["_build", "README.md"]
autodoc_member_order = "bysource"
suppress_warnings = ["myst.xref_missing"]  # the README links to files of the repository

# Docstrings of pages are shown as plain text, with equations and diagrams. Every page of the catalogue is here.
here = Path(__file__).parent
for page in pages().values():
    folder = here / "zoo" / page.kind
    folder.mkdir(parents=True, exist_ok=True)
    code = page.text.partition(page.docstring.splitlines()[-1])[2].partition('"""')[2].strip()
    story = page.docstring.partition("\n")[2].strip("\n")
    (folder / f"{page.name}.md").write_text(
        f"# `{page.name}`\n\n{page.headline}\n\n```text\n{story}\n```\n\n```python\n{code}\n```\n", "utf-8"
    )


def setup(app):
    """Show docstrings as plain text: they have columns and equations, and are not markup."""

    def as_it_stands(app, what, name, thing, options, lines):
        lines[:] = [".. code-block:: text", "", *(f"    {line}" for line in lines), ""] if any(lines) else []

    app.connect("autodoc-process-docstring", as_it_stands)
