"""Configuration of the site. What can be generated is generated here: the zoo, the course, the command line."""

import json
import re
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
extensions = ["myst_nb", "sphinx.ext.autodoc"]
html_theme = "sphinx_book_theme"
html_theme_options = {"max_navbar_depth": 1, "show_navbar_depth": 1}
html_title = "pyroscvi"
html_static_path = ["_static"]
html_extra_path = ["_extra"]
html_css_files = ["width.css"]
mathjax4_config = {"output": {"displayOverflow": "linebreak"}}  # a long equation takes several lines
html_js_files = ["tables.js"]
myst_enable_extensions = ["amsmath", "attrs_inline", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests execute them
exclude_patterns = ["_build", "_extra", "README.md"]
suppress_warnings = ["ref.python"]  # two classes of one name: the first of them is linked to
autodoc_member_order = "bysource"
add_module_names = False
toc_object_entries_show_parents = "hide"

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

docstrings = import_module("docstrings")
import_module("zoo").write(HERE / "zoo", list(pages().values()))
options = import_module("options")
write_if_new = options.write_if_new
options.write(HERE / "options", list(pages().values()))

(HERE / "course").mkdir(exist_ok=True)
for chapter in (HERE.parent / "notebooks").glob("[0-9]*.ipynb"):
    shutil.copy2(chapter, HERE / "course")
write_if_new(HERE / "course" / "index.md", (HERE.parent / "notebooks" / "README.md").read_text("utf-8"))

command = [sys.executable, "-m", "typer", "pyroscvi.cli", "utils", "docs", "--name", "pyroscvi"]
generated = subprocess.run(command, capture_output=True, text=True, check=True).stdout
generated = re.sub(r"\[/?bold\]", "`", generated.replace("# `pyroscvi`", "# The command line", 1))
for name, sentence in re.findall(
    r"^## `pyroscvi ([\w-]+)`\n\n(.+)$", generated, flags=re.MULTILINE
):  # the list cuts them
    generated = re.sub(
        rf"^\* `{name}`: .*$", rf"* [`{name}`](#pyroscvi-{name}): {sentence}", generated, flags=re.MULTILINE
    )
write_if_new(HERE / "command_line.md", generated)

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


# Files of the repository that are pages of the site, and where the files that its texts link to are on the site.
SHOWN = {
    "readme": "README.md",
    "contributing": "CONTRIBUTING.md",
    "changes": "CHANGELOG.md",
    "architecture": "ARCHITECTURE.md",
}
PLACES = {
    r"(?:\.\./)?(models|guides)/([a-z]\w*)\.py": r"zoo/\1/\2.md",
    r"(?:\.\./)?notebooks/README\.md": "course/index.md",
    r"(?:\.\./)?notebooks/(\w+\.ipynb)": r"course/\1",
    r"(?:\.\./)?CONTRIBUTING\.md": "contributing.md",
    r"(?:\.\./)?CHANGELOG\.md": "changes.md",
    r"(?:\.\./)?ARCHITECTURE\.md": "architecture.md",
    r"CITATION\.cff": "cite.md",
    r"docs/": "",
    r"((?:benchmarks|tests)/\w+\.py)": r"../\1",
    r"LICENSE": "../LICENSE",
}


def of_the_repository(app, docname, source):
    """Links to pages of the zoo, to chapters and to documents lead to their pages on the site."""
    if docname in SHOWN:
        source[0] = (HERE.parent / SHOWN[docname]).read_text("utf-8")
    if "/" not in docname:
        for file, page in PLACES.items():
            source[0] = re.sub(r"(?<=\]\()" + file, page, source[0])


def setup(app):
    """Docstrings are shown as markup, and signatures as they are written; equations may be on any page."""
    app.connect("autodoc-process-docstring", docstrings.process_docstring)
    app.connect("autodoc-process-signature", docstrings.process_signature)
    app.connect("source-read", of_the_repository)
    app.add_role("kind", docstrings.kind_role)
    app.set_html_assets_policy("always")
