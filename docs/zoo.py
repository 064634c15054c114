"""The pages of the zoo as pages of the site: equations set by MathJax, plate diagrams drawn from the program."""

import re
import shutil
from pathlib import Path

from docstrings import is_python, linked, references
from equations import grid
from examples import PICTURES, example
from matplotlib import pyplot as plt
from options import SLOTS, write_if_new

from pyroscvi.catalogue import Page
from pyroscvi.report.plates import example_cells, plates


def markdown(page: Page, diagram: str | None, extra: list[str]) -> str:
    """A page of the zoo in Markdown; ``diagram`` is the file of its plate diagram, ``extra`` what else it shows."""
    blocks = [f"# `{page.name}`", page.headline]
    for block in re.split(r"\n{2,}", page.docstring.partition("\n")[2].strip("\n")):
        lines = block.split("\n")
        if re.search(r"^ +\+-", block, flags=re.MULTILINE):
            blocks.append(f"![the plate diagram of {page.name}]({diagram})")
        elif block.startswith("Plate diagram"):
            continue
        elif lines[0] == "References":
            blocks += ["## References", *("- " + linked(entry) for entry in references(lines[1:]))]
        elif ">>>" in block or (all(line.startswith("    ") for line in lines) and is_python(lines)):
            blocks.append("```python\n" + "\n".join(line.removeprefix("    ") for line in lines) + "\n```")
        elif all(line.startswith("    ") for line in lines):
            blocks.append(grid(lines))
        else:
            blocks.append(block.replace("``", "`"))
    code = page.text.partition(page.docstring.splitlines()[-1])[2].partition('"""')[2].strip()
    slots = "\n".join(f"| `{name}` | {_kind(takes)} | `{default}` |" for name, takes, default in page.slots)
    if slots:
        blocks += ["## Slots", f"| slot | takes | default |\n|---|---|---|\n{slots}"]
    return "\n\n".join([*blocks, *extra, "## The file", f"```python\n{code}\n```\n"])


def _kind(takes: str) -> str:
    """The type of a slot, with a link to the page of its options."""
    file = next((file for file, (_, path, *_) in SLOTS.items() if path.rpartition(".")[2] == takes), None)
    return f"[`{takes}`](../../options/{file}.md)" if file else f"`{takes}`"


def index(pages: list[Page], folder: Path) -> str:
    """All pages in two tables, with the diagrams in ``folder``."""
    rows = {"models": [], "guides": []}
    for page in pages:
        cells = [f"[`{page.name}`]({page.kind}/{page.name}.md)", page.headline.partition(": ")[2]]
        if page.kind == "models":
            file = f"{page.kind}/{page.name}.svg"
            cells += [page.load()().estimand.replace("|", "\\|"), f"![]({file}){{width={_width(folder / file)}}}"]
        rows[page.kind].append("| " + " | ".join(cells) + " |")
    return "\n".join(
        [
            "# The zoo\n",
            "Every model is one file with its whole generative process. A grey circle is observed, and the box is the",
            "plate over cells; parameters are not drawn. The evidence is that of the default slots: with",
            "`size=LatentSize()`, p(x | l) becomes p(x).\n",
            "| model | | evidence | plates |\n|---|---|---|---|",
            *rows["models"],
            "\nEvery guide is the posterior of every model, but for what its page says.\n",
            "| guide | |\n|---|---|",
            *rows["guides"],
            "",
        ]
    )


def _width(diagram: Path) -> str:
    """The width of a diagram in a table, at which the letters of all diagrams have the same size."""
    points = re.search(r'width="([\d.]+)pt"', diagram.read_text("utf-8"))
    return f"{float(points[1]) * 0.8:.0f}px" if points else "240px"


def write(folder: Path, pages: list[Page]) -> None:
    """Write every page of the zoo, the plate diagrams of the models, and the index, below ``folder``."""
    cells = example_cells()
    plt.rcParams["svg.hashsalt"] = "pyroscvi"
    for page in pages:
        (folder / page.kind).mkdir(parents=True, exist_ok=True)
        diagram, extra = None, []
        if page.kind == "models":
            diagram = f"{page.name}.svg"
            drawn = plates(page.load()().sized(cells.dims), cells)
            drawn.figure.savefig(folder / page.kind / diagram, transparent=True, metadata={"Date": None})
            plt.close("all")
        picture = PICTURES / f"{page.name}.png"
        if (code := example(page.name)) and picture.exists():
            shutil.copy2(picture, folder / page.kind)
            drawn = f"![what this example draws]({picture.name}){{width=26rem}}"
            extra = ["## An example, and its picture", f"```python\n{code}```", drawn]
        write_if_new(folder / page.kind / f"{page.name}.md", markdown(page, diagram, extra))
    write_if_new(folder / "index.md", index(pages, folder))
    write_if_new(
        folder / "references.txt", "\n".join(_cited(page) for page in pages if "\nReferences\n" in page.docstring)
    )


def _cited(page: Page) -> str:
    """The references of a page, as an entry of a list."""
    entries = references(page.docstring.partition("\nReferences\n")[2].split("\n\n")[0].split("\n"))
    return f"- [`{page.name}`](zoo/{page.kind}/{page.name}.md): " + " ".join(linked(entry) for entry in entries)
