"""The printed table of a comparison: what it shows and what it says."""

import copy
import io

import pytest
import torch
from comparisons import NAMES, renamed
from fits import untrained
from rich.console import Console

from pyroscvi.advice import command_line
from pyroscvi.comparison.compare import compare
from pyroscvi.evidence.estimator import Importance
from pyroscvi.guides import FullCovariance
from pyroscvi.models import LDVAE, SCVI
from pyroscvi.parts import NB, ReadCell

GUIDE = FullCovariance(encoder=ReadCell(widths=16))


@pytest.fixture
def pair(cells):
    return untrained(SCVI(latent=2, likelihood=NB()), GUIDE, cells)


def text(result):
    """What is printed, on one line."""
    return " ".join(str(result).split())


def test_print_shows_verdicts_and_every_fit_in_80_columns(comparison):
    printed = str(comparison)
    assert "rows x" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    for verdict in ("best", "indistinguishable", "told apart"):
        assert verdict in printed
    for name in NAMES:
        assert name.split(",")[0] in printed
    for column in ("evidence", "difference"):
        for value in comparison.table[column].iloc[1:]:
            assert f"{value:.3f}" in printed
    assert repr(comparison) == "Comparison(4 fits, 120 cells: 'nb, latent 5' is the best)"


def test_long_names_are_wrapped_and_no_number_is_cut(comparison):
    printed = str(renamed(comparison, [f"a very long name of the fit with number {i}" for i in range(4)]))
    assert max(map(len, printed.splitlines())) <= 80
    assert f"{comparison.table['standard_error'].iloc[1]:.3f}" in printed
    assert "indistinguishable" in printed
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed


@pytest.mark.parametrize("name", ["scvi [nb]", "[/red]", "[red]x[/red]", "[link=http://a]b[/link]", "a\\[b]"])
def test_markup_in_a_name_is_shown_as_it_is(comparison, name):
    result = renamed(comparison, [name, "scvi [zinb]", "c", "d"])
    for width in (120, 160):
        console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
        console.print(result)
        printed = console.file.getvalue()
        assert name in printed
        assert "scvi [zinb]" in printed


def test_control_characters_in_a_name_do_not_reach_the_terminal(comparison):
    name = "\x1b[31mred\x1b]0;\x07"
    result = renamed(comparison, [name, "b\rb", "c", "d"])
    for shown in (str(result), repr(result), result._repr_html_()):
        assert not any(character in shown for character in "\x1b\x07\r")
    assert "\\x1b[31mred" in repr(result)


def test_a_notebook_shows_the_answer_and_the_table(comparison):
    html = renamed(comparison, ["<b>bold</b>", "b", "c", "d"])._repr_html_()
    assert html.startswith("<p>&lt;b&gt;bold&lt;/b&gt; explains the held-out cells best")
    assert "<table>" in html
    assert "indistinguishable" in html
    assert "<b>" not in html


def test_a_conditional_evidence_says_so(pair, cells):
    printed = text(compare({"a": [pair, pair], "b": [pair, pair]}, cells, 20))
    assert "conditional on the observed total" in printed
    assert "uncertified" in printed
    assert "indistinguishable" in printed


def test_a_probability_of_counts_needs_no_such_sentence(cells):
    printed = text(compare({"a": untrained(LDVAE(latent=2), GUIDE, cells)}, cells, 20))
    assert "conditional" not in printed
    assert "Held-out log p(x) of 60 cells, in nats a cell" in printed


def test_one_seed_cannot_tell_and_what_to_write_instead(pair, cells):
    once = "was fitted with one seed, and one seed cannot tell models apart: how much the evidence of a fit"
    result = compare({"a": pair, "b": pair}, cells, 20)
    assert f"Every model {once}" in text(result)
    assert "Fit several: sweep(..., seeds=3)." in text(result)
    assert "undecided" in text(result)
    assert "told apart" not in text(result)
    with command_line():
        assert "Fit several: --seeds 3." in text(result)
    assert once not in text(compare({"a": pair}, cells, 20))
    assert once not in text(compare({"a": [pair, pair], "b": [pair, pair]}, cells, 20))
    assert f"b {once}" in text(compare({"a": [pair, pair], "b": pair}, cells, 20))


def test_a_heavy_tail_is_mentioned(pair, cells):
    model, guide = copy.deepcopy(pair)
    with torch.no_grad():
        guide.heads["z"].out.bias[2:4] = -4.0  # far too narrow
    result = compare({"good": pair, "narrow": (model, guide)}, cells, 200, estimator=Importance())
    assert result.table.loc["narrow", "heavy_tailed"] > 0.5
    assert "of the cells of narrow the importance weights have a heavy tail" in text(result)
    good, narrow = result.table.loc["good", "heavy_tailed"], result.table.loc["narrow", "heavy_tailed"]
    of_both = compare({"a": [pair, (model, guide)]}, cells, 200, estimator=Importance()).table
    assert of_both.loc["a", "heavy_tailed"] == pytest.approx((good + narrow) / 2)


def test_means_over_seeds_are_mentioned(pair, cells):
    def printed(a, b):
        return text(compare({"a": [pair] * a, "b": [pair] * b}, cells, 5, estimator=Importance()))

    assert "Evidences are means over 2 seeds." in printed(2, 2)
    assert "intervals are wider where seeds are few (Student's t)" in printed(2, 2)
    assert "Evidences are means over up to 10 seeds." in printed(10, 1)
    assert "means over" not in printed(1, 1)


def test_values_of_every_cell_are_kept(pair, named):
    result = compare({"a": pair, "b": pair}, named, 20)
    assert list(result.by_cell.index) == list(named.names)
    assert list(result.by_cell["log_evidence"].columns) == list(result.table.index)
    assert result.by_cell["log_evidence", "a"].mean() == pytest.approx(result.table.loc["a", "evidence"])
