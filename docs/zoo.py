"""The pages of the zoo as pages of the site: equations set by MathJax, plate diagrams drawn from the program."""

import re
from pathlib import Path

from pyroscvi.catalogue import Page
from pyroscvi.report.plates import example_cells, plates

GREEK = "alpha beta gamma delta epsilon eta theta kappa lambda mu nu pi rho sigma tau phi psi omega"
NAMES = {name: f"\\{name}" for name in GREEK.split()} | {"inf": "\\infty", "sum": "\\sum"}
SYMBOLS = {"~": " \\sim ", "|": " \\mid ", "..": ", \\dots, ", ">=": " \\ge ", "<=": " \\le "}
SYMBOLS |= {"'": "^{\\top}", " ": "\\ "}
WORDS = {"over", "of", "for", "and", "if", "in", "neighbours", "to", "the", "with", "from", "each", "or", "is"}
TOKEN = re.compile(r"([A-Za-z][A-Za-z0-9]*)(?:_(t\(g\)|\w+))?|\.\.|>=|<=|[~|' ]")
CLOSED = " *(~|=|[|]|[.][.]|>=|<=) *"  # symbols that have a space of their own on both sides
QUAD, ROW = "\\qquad ", " \\\\\n"


def tex(equation: str) -> str:
    """An equation of a docstring in the language of TeX: ``m[y]`` has an index, and so has ``h_n``."""
    equation = re.sub(r"_(\w)\[([^\[\]]+)\]", r"[\1,\2]", re.sub(CLOSED, r"\1", equation))
    pieces = re.split(r"\[([^\[\]]+)\]", equation)
    return "".join(
        f"_{{{TOKEN.sub(_token, piece)}}}" if n % 2 else TOKEN.sub(_token, piece) for n, piece in enumerate(pieces)
    )


def _token(match: re.Match) -> str:
    name, index = match.groups()
    if name is None:
        return SYMBOLS[match.group()]
    if name in WORDS:
        return f"\\text{{{name}}}"
    shown = NAMES.get(name) or (name if len(name) == 1 else f"\\mathrm{{{name}}}")
    if index is None:
        return shown
    return f"{shown}_{{{index if len(index) == 2 else TOKEN.sub(_token, index)}}}"


def equations(lines: list[str]) -> str:
    """The equations of a docstring, one a row, each beside what it means."""
    rows, outermost = [], min(len(line) - len(line.lstrip()) for line in lines)
    for line in lines:
        indent = (len(line) - len(line.lstrip()) - outermost) // 4
        equation, *notes = re.split(r" {2,}", re.sub(r" +(=|~) ", r" \1 ", line.strip()))
        plate = re.fullmatch(r'plate "(\w+)"(?:, (.*))?', equation)
        shown = f"\\text{{for each of the {plate[1]}}}\\quad {tex(plate[2] or '')}" if plate else tex(equation)
        said = QUAD.join(tex(n) if re.search(" [~=] ", n) else f"\\text{{{n.replace('``', '')}}}" for n in notes)
        rows.append(f"&{QUAD * indent}{shown} && {said}")
    return f"$$\n\\begin{{aligned}}\n{ROW.join(rows)}\n\\end{{aligned}}\n$$"


def markdown(page: Page, diagram: str | None) -> str:
    """A page of the zoo in Markdown; ``diagram`` is the file of its plate diagram."""
    blocks = [f"# `{page.name}`", page.headline]
    for block in re.split(r"\n{2,}", page.docstring.partition("\n")[2].strip("\n")):
        lines = block.split("\n")
        if block.startswith("Plate diagram"):
            continue
        if re.match(r" +\+-", block):
            blocks.append(f"![the plate diagram of {page.name}]({diagram})")
        elif lines[0] == "References":
            entries = re.split(r"\n(?=    \S.*\d{4}\))", "\n".join(lines[1:]))
            blocks += ["## References", *("- " + " ".join(entry.split()) for entry in entries)]
        elif ">>>" in block:
            blocks.append("```python\n" + "\n".join(line.removeprefix("    ") for line in lines) + "\n```")
        elif all(line.startswith("    ") for line in lines):
            blocks.append(equations(lines))
        else:
            blocks.append(block.replace("``", "`"))
    code = page.text.partition(page.docstring.splitlines()[-1])[2].partition('"""')[2].strip()
    slots = "\n".join(f"| `{name}` | `{takes}` | `{default}` |" for name, takes, default in page.slots)
    if slots:
        blocks += ["## Slots", f"| slot | takes | default |\n|---|---|---|\n{slots}"]
    return "\n\n".join([*blocks, "## The file", f"```python\n{code}\n```\n"])


def write(folder: Path, pages: list[Page]) -> None:
    """Write every page of the zoo, and the plate diagrams of the models, below ``folder``."""
    cells = example_cells()
    for page in pages:
        (folder / page.kind).mkdir(parents=True, exist_ok=True)
        diagram = None
        if page.kind == "models":
            diagram = f"{page.name}.svg"
            drawn = plates(page.load()().sized(cells.dims), cells)
            drawn.figure.savefig(folder / page.kind / diagram, transparent=True)
        (folder / page.kind / f"{page.name}.md").write_text(markdown(page, diagram), "utf-8")
