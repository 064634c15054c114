"""Docstrings as reStructuredText, and signatures as they are written in the source.

A docstring here has paragraphs, equations, code, and lists whose entries begin with a name and two spaces:

    samples     number of samples; None returns the mean
    corrected   use the exact posterior by importance sampling, not the guide

If the names are arguments of the function, or fields of the class, the entries get their types and defaults.
"""

import ast
import inspect
import re
import textwrap
from dataclasses import is_dataclass
from functools import cache
from typing import Any

from equations import grid, tex

ENTRY = re.compile(r"(\w+(?:, \w+)*)(?: {2,}(\S.*))?$")
SHAPE = re.compile(r" {2,}(\[[^\]]*\]|\{.*\}|(?:batch shape|broadcasts to) \[[^\]]*\])(;.*)?$")
RAISES = re.compile(r"(?:(?<=[.:;] )|^)Raises? (\w*(?:Error|Loss|File)\b[^.]*(?:\.(?=\w)[^.]*)*)\.(?= |$)")
SOURCES = [
    ("doi", re.compile(r"doi:(10\.[^\s\];,]*[^\s\];,.)])"), "https://doi.org/"),
    ("arXiv", re.compile(r"arXiv:(\d{4}\.\d{4,5})"), "https://arxiv.org/abs/"),
]
EQUATION = re.compile(r"(?:log )?\w+(?:\([^)]*\))? [~=] ")
END = re.compile(
    r"[:;.](?= |$)|,(?= (?:the|an?|with|otherwise|where|for|then|each|one)\b)| (?=\[[A-Z])"
)  # of an equation in a sentence
INDENT = "    "
OTHERWISE = ", otherwise "
REFERENCES = ".. rubric:: References"


def restructured(docstring: str, takes: dict[str, tuple[str, str]], heading: str = "Parameters") -> list[str]:
    """The lines of a docstring in reStructuredText; ``takes`` has the type and the default of every argument."""
    first, blocks = True, re.split(r"\n{2,}", docstring.strip("\n"))
    out: list[str] = []
    raised: list[str] = []
    listed = None
    for block in blocks:
        lines = block.split("\n")
        if lines[0] in ("References", "Reference"):
            out += [REFERENCES, "", *(f"- {text(entry)}" for entry in references(lines[1:])), ""]
        elif ">>>" in block:
            out += _code(lines, "python")
        elif all(line.startswith(INDENT) for line in lines):
            out += _code(lines, "python") if is_python(lines) else _html(grid(lines))
        elif is_list(lines):
            entries = list(_entries(lines))
            names = {name for entry, _ in entries for name in entry.split(", ")}
            if takes and names <= set(takes) and listed is None:
                listed = dict(entries)
                out.append("%LISTED%")
            else:
                out += _definitions([(name, "", meaning) for name, meaning in entries])
        elif all(re.match(r"\S+ ~ ", line) for line in lines) and not (first and len(lines) == 1):
            out += _html(grid(lines))
        else:
            paragraph = " ".join(line.strip() for line in lines)
            if indented := [n for n, line in enumerate(lines) if line.startswith(INDENT)]:
                out += _mixed(lines, indented)
                continue
            raised += RAISES.findall(paragraph)
            paragraph = RAISES.sub("", paragraph).strip()
            if paragraph:
                out += [_headline(paragraph) if first else text(paragraph), ""]
        first = False
    table = _arguments(takes, listed or {}, heading)
    if listed is None:
        place = out.index(REFERENCES) if REFERENCES in out else len(out)
        out[place:place] = table
    else:
        place = out.index("%LISTED%")
        out[place : place + 1] = table
    if raised:
        out += ["**Raises** " + " ".join(text(_errors(each)) + "." for each in raised), ""]
    return out


def is_list(lines: list[str]) -> bool:
    """Whether these lines are a list of names, two spaces and what they mean."""
    entries = [line for line in lines if not line.startswith(" ")]
    return (
        lines[0] in entries
        and all(ENTRY.match(line) for line in entries)
        and bool(re.match(r"[\w, ]+? {2,}\S", lines[0]))
    )


def references(lines: list[str]) -> list[str]:
    """The entries of a list of references: each begins with its authors and has a year on its first line."""
    return [" ".join(entry.split()) for entry in re.split(r"\n(?=    [A-Z].*\d{4}\))", "\n".join(lines))]


def text(words: str) -> str:
    """A paragraph: code stays code, references become links, and no other sign is markup."""
    pieces = re.split(r"(``.+?``)", words)
    return "".join(piece if n % 2 else _linked(re.sub(r"([*_|`\\])", r"\\\1", piece)) for n, piece in enumerate(pieces))


def _linked(words: str) -> str:
    return linked(words, "`{} <{}>`__")


def linked(words: str, form: str = "[{}]({})") -> str:
    """The same with a link at every DOI and arXiv number, in Markdown or in another form."""
    for name, pattern, address in SOURCES:
        words = pattern.sub(lambda m, n=name, a=address: form.format(f"{n}:{m[1]}", a + m[1].replace("\\", "")), words)
    return words


def _headline(words: str) -> str:
    """The first line; an equation at its beginning is set."""
    end = _end(words)
    if not EQUATION.match(words) or "``" in words[:end]:
        return text(words)
    nothing, otherwise, rest = words[end:].partition(OTHERWISE)
    after = otherwise + _headline(rest) if otherwise and not nothing else text(words[end:])
    return f":math:`{tex(words[:end])}`\\ {after}"


def _end(words: str) -> int:
    """Where the equation ends with which a sentence begins."""
    return next((match.start() for match in END.finditer(words) if _depth(words[: match.start()]) == 0), len(words))


def _depth(words: str) -> int:
    return sum(words.count(sign) for sign in "([{") - sum(words.count(sign) for sign in ")]}")


def _errors(words: str) -> str:
    return re.sub(r"\b(\w+Error|NonFiniteLoss|DamagedFile)\b", r"``\1``", words)


def _entries(lines: list[str]) -> Any:
    """Name and meaning of every entry of a list."""
    entries: list[list[str]] = []
    for line in lines:
        if line.startswith(" "):
            entries[-1][1] += "  " + line.strip() if re.match(r" {20,}[\[{]", line) else " " + line.strip()
        else:
            match = ENTRY.match(line)
            shape = SHAPE.search(match[2] or "")
            meaning = match[2] or ""
            entries.append(
                [match[1], f"{meaning[: shape.start()]} ``{shape[1]}``{shape[2] or ''}" if shape else meaning]
            )
    return ((name, meaning) for name, meaning in entries)


def _arguments(takes: dict[str, tuple[str, str]], meaning: dict[str, str], heading: str) -> list[str]:
    if not takes:
        return []
    meaning = {name: (names, words) for names, words in meaning.items() for name in names.split(", ")}
    rows, done = [], set()
    for name, (kind, default) in takes.items():
        names, words = meaning.get(name, (name, ""))
        if names not in done:
            of_all = [takes[each] for each in names.split(", ")]
            kinds = kind if all(each == (kind, default) for each in of_all) or "," not in names else ""
            rows.append((names, kinds + (f" = {default}" if kinds and default else ""), words))
        done.add(names)
    return [f".. rubric:: {heading}", "", *_definitions(rows)]


def _definitions(rows: list[tuple[str, str, str]]) -> list[str]:
    """A list of names, each with its type beside it and its meaning below."""
    out = [".. container:: entries", ""]
    for name, kind, meaning in rows:
        beside = f" :kind:`{kind}`" if kind else ""
        out += [f"{INDENT}**{text(name)}**{beside}", f"{INDENT}{INDENT}{text(meaning) or '..'}", ""]
    return out


def _mixed(lines: list[str], indented: list[int]) -> list[str]:
    """A paragraph with a list of indented lines in it."""
    out, begin = [], indented[0]
    end = indented[-1] + 1
    out += [text(" ".join(lines[:begin])), "", *_code(lines[begin:end], "text")]
    return out + ([text(" ".join(lines[end:])), ""] if lines[end:] else [])


def _code(lines: list[str], language: str) -> list[str]:
    return [
        f".. code-block:: {language}",
        "",
        *textwrap.indent(textwrap.dedent("\n".join(lines)), INDENT).split("\n"),
        "",
    ]


def _html(written: str) -> list[str]:
    return [".. raw:: html", "", *textwrap.indent(written, INDENT).split("\n"), ""]


def is_python(lines: list[str]) -> bool:
    """Whether indented lines are code; otherwise they are equations."""
    code = textwrap.dedent("\n".join(lines))
    try:
        statements = ast.parse(code).body
    except SyntaxError:
        return False
    calls = all(isinstance(each, ast.Expr) and isinstance(each.value, ast.Call) for each in statements)
    return calls or bool(re.search(r"\bps\.|fit\.|cells|adata|GeneSets|\bpath\b|\bmdata\b", code))


# Signatures


def arguments(thing: Any) -> tuple[dict[str, tuple[str, str]], str]:
    """The type and the default of every argument of a function, or field of a class, and what is returned."""
    if inspect.isclass(thing):
        return fields(thing), ""
    tree = _tree(inspect.unwrap(thing.__func__ if inspect.ismethod(thing) else thing))
    if not isinstance(tree, ast.FunctionDef):
        return {}, ""
    spec = tree.args
    plain = spec.posonlyargs + spec.args
    defaults = [None] * (len(plain) - len(spec.defaults)) + spec.defaults
    takes = {a.arg: (_annotation(a.annotation), _text(d)) for a, d in zip(plain, defaults, strict=True)}
    if spec.vararg:
        takes["*" + spec.vararg.arg] = (_annotation(spec.vararg.annotation), "")
    elif spec.kwonlyargs:
        takes["*"] = ("", "")
    takes |= {
        a.arg: (_annotation(a.annotation), _text(d)) for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    }
    if spec.kwarg:
        takes["**" + spec.kwarg.arg] = (_annotation(spec.kwarg.annotation), "")
    takes.pop("self", None), takes.pop("cls", None)
    return takes, _annotation(tree.returns)


def fields(cls: type) -> dict[str, tuple[str, str]]:
    """The type and the default of every field of a part, a dataclass or a named tuple; inherited ones first."""
    wanted = list(getattr(cls, "__dataclass_fields__", {})) if is_dataclass(cls) else list(getattr(cls, "_fields", ()))
    by_name: dict[str, tuple[str, str]] = {}
    for base in reversed(cls.__mro__):
        tree = _tree(base) if base.__module__.startswith("pyroscvi") else None
        for node in tree.body if isinstance(tree, ast.ClassDef) else ():
            if isinstance(node, ast.AnnAssign) and "ClassVar" not in _text(node.annotation):
                by_name[_text(node.target)] = (_annotation(node.annotation), _text(node.value))
    return {name: by_name[name] for name in wanted if name in by_name}


def signature(thing: Any) -> tuple[str, str | None]:
    """The arguments with their defaults, and the type of what is returned."""
    takes, returns = arguments(thing)
    return (
        f"({', '.join(f'{name}={default}' if default else name for name, (_, default) in takes.items())})",
        returns or None,
    )


def _text(node: ast.AST | None) -> str:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "field":
        given = {each.arg: ast.unparse(each.value) for each in node.keywords}
        return given.get("default", f"{given['default_factory']}()" if "default_factory" in given else "")
    return "" if node is None else ast.unparse(node)


def _annotation(node: ast.AST | None) -> str:
    """A type as it is read: a name that stands in quotes in the source, without them."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else _text(node)


@cache
def _tree(thing: Any) -> ast.stmt | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None


def plain_headline(thing: Any) -> str:
    """The first line of a docstring in Markdown, with its equation set."""
    first = re.split(r"\n\n|(?<=\.)\s", inspect.getdoc(thing) or "")[0].replace("\n", " ")
    end = _end(first)
    if EQUATION.match(first) and "``" not in first[:end]:
        before, otherwise, after = first.partition(OTHERWISE)
        if before == first[:end] and otherwise:
            end = _end(after)
            first = f"${tex(before)}${otherwise}${tex(after[:end])}$" + after[end:]
        else:
            first = f"${tex(first[:end])}$" + first[end:]
    return first.replace("``", "`").replace("|", "\\|") if "$" not in first else first.replace("``", "`")


# What Sphinx calls


def process_docstring(app, what, name, thing, options, lines):
    """Sphinx' event: a docstring that is about to be shown."""
    if not any(lines):
        return
    if what == "module":
        lines[:] = restructured("\n".join(lines), {})
        return
    takes = arguments(thing)[0] if what in ("function", "method", "class") else {}
    takes = {name: each for name, each in takes.items() if name != "*" and not name.startswith("_")}
    lines[:] = restructured("\n".join(lines), takes, "Fields" if what == "class" else "Parameters")


def process_signature(app, what, name, thing, options, given, returned):
    """Sphinx' event: a signature that is about to be shown."""
    if what in ("function", "method", "class"):
        return signature(thing)
    return None


def kind_role(name, rawtext, text, lineno, inliner, options=None, content=()):
    """The type and the default of an argument."""
    from docutils import nodes  # the tests of this file do without

    return [nodes.inline(rawtext, text, classes=["kind"])], []
