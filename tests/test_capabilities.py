"""Every link of docs/capabilities.md leads to a file, and every test that it names exists."""

import ast
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
ROWS = [line for line in (DOCS / "capabilities.md").read_text().splitlines() if re.match(r"\| [A-F]\d* ", line)]


@pytest.mark.parametrize("row", ROWS)
def test_a_capability_has_its_code_and_its_test(row):
    *_, code, test = [cell.strip() for cell in row.strip("|").split("|")]
    (shown, of_code), (name, of_test) = (re.fullmatch(r"\[`(.+)`\]\((.+)\)", cell).groups() for cell in (code, test))
    assert (DOCS / of_code).name == shown
    assert (DOCS / of_code).is_file()
    assert name in {node.name for node in ast.parse((DOCS / of_test).read_text()).body if hasattr(node, "name")}


def test_every_page_of_a_model_and_of_a_guide_is_linked_from_the_table_or_from_the_list_of_pages():
    text = "".join((DOCS / name).read_text() for name in ("capabilities.md", "pages.md"))
    pages = [path for room in ("models", "guides") for path in (DOCS.parent / room).glob("[a-z]*.py")]
    assert not [path.name for path in pages if f"../{path.parent.name}/{path.name}" not in text]
