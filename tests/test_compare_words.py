"""What a table of a comparison says in words."""

import copy
from io import StringIO

import pytest
import torch
from fits import untrained
from rich.console import Console

from pyroscvi.comparison.compare import compare, show
from pyroscvi.evidence.estimator import Importance
from pyroscvi.guides import FullCovariance
from pyroscvi.models import LDVAE, SCVI
from pyroscvi.parts import NB, ReadCell

GUIDE = FullCovariance(encoder=ReadCell(widths=16))


@pytest.fixture
def pair(cells):
    return untrained(SCVI(latent=2, likelihood=NB()), GUIDE, cells)


def printed(table):
    console = Console(width=120, file=StringIO())
    console.print(show(table))
    return console.file.getvalue()


def test_it_says_what_it_is_conditional_on(pair, cells):
    text = printed(compare({"a": pair, "b": pair}, cells, 20))
    assert "conditional on the observed total" in " ".join(text.split())
    assert "uncertified" in text
    assert "indistinguishable" in text


def test_a_proper_density_needs_no_caveat(cells):
    text = printed(compare({"a": untrained(LDVAE(latent=2), GUIDE, cells)}, cells, 20))
    assert "conditional" not in text
    assert "log p(x) in nats" in text


def test_one_fit_of_each_is_spoken_of(pair, cells):
    once = "Every model was fitted once: what another seed would have given is in no error."
    assert once in " ".join(printed(compare({"a": pair, "b": pair}, cells, 20)).split())
    assert once not in " ".join(printed(compare({"a": pair}, cells, 20)).split())
    assert once not in " ".join(printed(compare({"a": pair, "b": pair}, cells, 20, refits={"a": [pair]})).split())


def test_a_heavy_tail_is_spoken_of(pair, cells):
    model, guide = copy.deepcopy(pair)
    with torch.no_grad():
        guide.heads["z"].out.bias[2:4] = -4.0  # far too narrow
    table = compare({"good": pair, "narrow": (model, guide)}, cells, 200, estimator=Importance())
    assert table.loc["narrow", "heavy_tailed"] > 0.5
    assert "of the cells of 'narrow'" in " ".join(printed(table).split())
    good, narrow = table.loc["good", "heavy_tailed"], table.loc["narrow", "heavy_tailed"]
    of_both = compare({"a": pair}, cells, 200, estimator=Importance(), refits={"a": [(model, guide)]})
    assert of_both.loc["a", "heavy_tailed"] == pytest.approx((good + narrow) / 2)


def test_means_over_few_seeds_are_spoken_of(pair, cells):
    def said(**refits):
        return " ".join(
            printed(compare({"a": pair, "b": pair}, cells, 5, estimator=Importance(), refits=refits)).split()
        )

    few = "An error over so few is itself not well known"
    assert f"Evidences are means over 2 seeds. {few}" in said(a=[pair], b=[pair])
    assert f"Evidences are means over up to 12 seeds. {few}" in said(a=[pair], b=[pair] * 11)
    assert "Evidences are means over up to 10 seeds." in said(a=[pair] * 9)
    assert few not in said(a=[pair] * 9)
    assert "seeds" not in said()


def test_values_of_single_cells_come_along(pair, named):
    table = compare({"a": pair, "b": pair}, named, 20)
    assert table.attrs["cells"] == list(named.names)
    assert len(table.attrs["log_evidence"]["a"]) == len(named)
    assert "..." in repr(table)  # a table too wide to print is cut, attributes or not
