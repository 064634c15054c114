"""Equations of docstrings, set by MathJax: ``z ~ Normal(m[k], s[k])`` as TeX, several of them as the rows of a grid."""

import html
import re

GREEK = "alpha beta gamma delta epsilon eta theta kappa lambda mu nu pi rho sigma tau phi psi omega"
NAMES = {name: f"\\{name}" for name in GREEK.split()} | {"inf": "\\infty", "infinity": "\\infty", "sum": "\\sum"}
SYMBOLS = {"~": " \\sim ", "|": " \\mid ", "..": ", \\dots, ", ">=": " \\ge ", "<=": " \\le "}
SYMBOLS |= {"'": "^{\\top}", " ": "\\ ", "*": " \\cdot ", "{": "\\{", "}": "\\}", "@": " \\cdots "}
WORDS = {"over", "of", "for", "and", "if", "in", "neighbours", "to", "the", "with", "from", "each", "or", "is"}
TOKEN = re.compile(r"([A-Za-z][A-Za-z0-9]*)(?:_(t\(g\)|\w+))?|\.\.|>=|<=|[~|' *{}@]")
CLOSED = " *(~|=|[|]|[.][.]|>=|<=|[*]) *"  # symbols that have a space of their own on both sides


def tex(equation: str) -> str:
    """An equation of a docstring in the language of TeX: ``m[y]`` has an index, and so has ``h_n``."""
    equation = re.sub(r"_\{([^{}]+)\}", r"[\1]", equation)
    equation = re.sub(r",? *\.\. *,?", "..", re.sub(r"\) *\.\. *\(", ")@(", equation))  # @: dots in a product
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


def grid(lines: list[str]) -> str:
    """HTML of the equations of a docstring, one a row, beside what it means; below it where the screen is narrow."""
    rows, outermost = [], min(len(line) - len(line.lstrip()) for line in lines)
    for line in lines:
        indent = (len(line) - len(line.lstrip()) - outermost) // 4
        equation, *notes = re.split(r" {2,}", re.sub(r" +(=|~) ", r" \1 ", line.strip()))
        shown = _plate(equation) or set_math(equation)
        notes = [set_math(note) if re.search(" [~=] ", note) else plain(note) for note in notes]
        left = f'<div class="equation" style="margin-left: {1.5 * indent}em">{shown}</div>'
        rows.append(f"{left}<div>{' '.join(notes)}</div>")
    return '<div class="equations">\n' + "\n".join(rows) + "\n</div>"


def _plate(line: str) -> str:
    """A line that opens a plate, in words; empty for an equation."""
    match = re.fullmatch(r'plate "(\w+)"(?:, (\S+ = \S+ \.\. \S+))?(.*)', line)
    if match is None:
        return ""
    return f"for each of the {match[1]}" + (f" {set_math(match[2])}" if match[2] else "") + match[3]


def set_math(equation: str) -> str:
    """HTML in which MathJax finds an equation."""
    return f'<span class="math notranslate nohighlight">\\({html.escape(tex(equation))}\\)</span>'


def plain(text: str) -> str:
    """HTML of a note beside an equation."""
    return re.sub("``(.*?)``", r"<code>\1</code>", html.escape(text, quote=False))
