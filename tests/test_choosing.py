"""Choosing among models: which contains which, what picking the best costs, and how many cells are needed."""

import itertools

import numpy as np
import pytest
import torch
from fits import quick, untrained

from pyroscvi.comparison import looks
from pyroscvi.comparison.compare import compare
from pyroscvi.comparison.looks import pieces
from pyroscvi.comparison.nested import contains, nested
from pyroscvi.comparison.selection import optimism
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.estimator import Importance
from pyroscvi.guides import FullCovariance, LowRank, MeanField
from pyroscvi.models import GMVAE, LDVAE, SCVI
from pyroscvi.parts import MLP, NB, ZINB, ZIP, Linear, Mixture, PerBatch, Poisson, ReadCell, SizeFactor, StandardNormal

GUIDE = FullCovariance(encoder=ReadCell(widths=8))


# Nested models


@pytest.mark.parametrize(
    ("larger", "smaller"),
    [
        (NB(), Poisson()),
        (ZINB(), Poisson()),
        (ZIP(), Poisson()),
        (ZINB(), NB()),
        (ZINB(dispersion=PerBatch()), NB(dispersion=PerBatch())),
        (Mixture(4), StandardNormal()),
        (Mixture(8), Mixture(4)),
        (FullCovariance(), MeanField()),
        (LowRank(rank=3), LowRank(rank=2)),
        (SCVI(latent=10), SCVI(latent=5)),
        (SCVI(latent=10, likelihood=ZINB()), SCVI(latent=5, likelihood=Poisson())),
        (GMVAE(kinds=8), GMVAE(kinds=3)),
    ],
    ids=str,
)
def test_the_larger_contains_the_smaller_and_not_the_reverse(larger, smaller):
    assert contains(larger, smaller)
    assert not contains(smaller, larger)


def test_models_that_differ_otherwise_contain_neither():
    pairs = [
        (SCVI(), LDVAE()),
        (NB(dispersion=PerBatch()), ZINB()),
        (SCVI(likelihood=NB(), latent=5), SCVI(likelihood=Poisson(), latent=10)),
        (SCVI(decoder=MLP(8)), SCVI(decoder=Linear())),
        (FullCovariance(encoder=ReadCell(8)), MeanField(encoder=ReadCell(16))),
    ]
    for one, other in pairs:
        assert not contains(one, other)
        assert not contains(other, one)


def test_pairs_are_named_and_a_fit_does_not_contain_itself(cells):
    declared = {"nb": NB(), "again": NB(), "poisson": Poisson()}
    fits = {name: untrained(SCVI(latent=2, likelihood=part), GUIDE, cells) for name, part in declared.items()}
    assert nested(fits) == [("nb", "poisson"), ("again", "poisson")]


def test_a_larger_model_that_is_behind_is_found(cells):
    fits = {
        "nb": [untrained(SCVI(latent=2, decoder=MLP(8), likelihood=NB()), GUIDE, cells) for _ in range(3)],
        "poisson": [quick(SCVI(latent=2, decoder=MLP(8), likelihood=Poisson()), GUIDE, cells, epochs=20, lr=0.02)] * 3,
    }
    with torch.no_grad():
        for model, _ in fits["nb"]:
            model.likelihood.dispersion.log_theta.fill_(-4)  # far from its optimum
    result = compare(fits, cells, 20, estimator=Importance())
    (behind,) = result.behind
    assert (behind.larger, behind.smaller) == ("nb", "poisson")
    assert behind.by == pytest.approx(-result.table.loc["nb", "difference"])
    assert "nb contains poisson and is behind it" in " ".join(str(result).split())
    assert not compare({name: seeds[0] for name, seeds in fits.items()}, cells, 20, estimator=Importance()).behind


# The best of several


def test_the_optimism_of_independent_models_is_an_expected_maximum():
    """Cells of all models are drawn alone, so that errors of the means are 1 / sqrt(n), and seeds add to them."""
    cells = np.random.default_rng(0).normal(size=(40_000, 6))
    largest = 1.2672  # the expected maximum of six standard normal numbers
    assert optimism(cells, np.zeros(6)) == pytest.approx(largest / 200, rel=0.03)
    assert optimism(cells * 1e-9, np.full(6, 0.3)) == pytest.approx(largest * 0.3, rel=0.03)


def test_what_models_share_is_no_optimism():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 100, (500, 1))
    assert optimism(shared + np.zeros((500, 5)), np.zeros(5)) == pytest.approx(0, abs=1e-9)
    two, alike = rng.normal(size=(500, 2)), np.zeros(3)
    assert optimism(shared + two[:, [0, 1, 1]], alike) == pytest.approx(optimism(two, alike[:2]), rel=0.25)


def test_optimism_is_that_of_a_choice_among_equal_models():
    """Six equally good models, 400 times: the best appears better by this much, on the mean."""
    rng = np.random.default_rng(1)
    ahead, expected = [], []
    for _ in range(100):
        log_p = rng.normal(0, 3, (80, 1)) + rng.normal(size=(80, 6))
        ahead.append((log_p - log_p.mean(1, keepdims=True)).mean(0).max())
        expected.append(optimism(log_p, np.zeros(6)))
    assert np.mean(ahead) == pytest.approx(np.mean(expected), rel=0.1)


# As many cells as are needed


@pytest.mark.parametrize(("cells", "number"), [(10, 1), (49, 1), (60, 2), (199, 4), (200, 8), (5000, 8)])
def test_pieces_have_every_cell_once_and_looks_double(cells, number):
    looks_planned, parts = pieces(cells, 0, budget=1e9)
    parts = list(parts)
    assert len(parts) == number
    assert sorted(np.concatenate([part.rows for part in parts])) == list(range(cells))
    assert [place for place, part in enumerate(parts, 1) if part.look] == [1, 2, 4, 8][:looks_planned]


def test_no_piece_is_begun_that_would_end_after_the_budget(monkeypatch):
    clock = itertools.count(0, 10)  # every piece takes ten seconds
    monkeypatch.setattr(looks.time, "monotonic", lambda: float(next(clock)))
    assert len(list(pieces(800, 0, budget=45)[1])) == 4
    with pytest.raises(ValueError, match="budget is a number of seconds above 0, not 0"):
        pieces(800, 0, budget=0)


@pytest.fixture(scope="module")
def held_out():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Cells(torch.poisson(torch.full((200, 12), 3.0)), size_factor=torch.full((200,), 36.0))


@pytest.fixture(scope="module")
def three(held_out):
    """Models without training, three seeds each: two that are equal, and one that is far behind."""
    page = SCVI(latent=2, decoder=MLP(8), likelihood=NB(), size=SizeFactor())
    same = [untrained(page, GUIDE, held_out) for _ in range(3)]
    behind = [untrained(page, GUIDE, held_out) for _ in range(3)]
    with torch.no_grad():
        for model, _ in behind:
            model.likelihood.dispersion.log_theta.fill_(-3)
    return {"a": same, "b": same, "behind": behind}


def test_a_clear_verdict_needs_few_cells_and_they_have_the_same_evidence(three, held_out):
    two = {name: three[name] for name in ("a", "behind")}
    how = {"particles": 20, "estimator": Importance()}
    result, every = compare(two, held_out, **how, budget=600), compare(two, held_out, **how)
    assert list(result.table["verdict"]) == ["best", "told apart"]
    assert len(result.by_cell) == 25
    assert "25 of 200 held-out cells were scored: they were enough for clear verdicts." in " ".join(str(result).split())
    one_seed = compare({name: fits[0] for name, fits in two.items()}, held_out, **how, budget=1e-9)
    assert one_seed.table["verdict"].iloc[1] == "undecided"
    assert "clear verdicts" not in str(one_seed)
    assert one_seed._repr_html_().count("one seed cannot tell models apart") == 1
    np.testing.assert_allclose(result.by_cell, every.by_cell.loc[result.by_cell.index], rtol=1e-9)
    wider = result.table["interval"].iloc[1] / result.table["standard_error"].iloc[1]
    assert result.looks == 4
    assert wider > every.table["interval"].iloc[1] / every.table["standard_error"].iloc[1] > 2


def test_what_stays_open_takes_all_cells_or_all_seconds(three, held_out, monkeypatch):
    how = {"particles": 20, "estimator": Importance()}
    every, result = compare(three, held_out, **how), compare(three, held_out, **how, budget=600)
    assert len(result.by_cell) == 200
    columns = ["evidence", "difference", "standard_error", "weight", "information"]
    np.testing.assert_allclose(result.table[columns], every.table[columns], rtol=1e-6)
    monkeypatch.setattr(looks, "_timed", lambda order, number, _: iter([looks.Piece(np.sort(order[:50]), False)]))
    result = compare(three, held_out, **how, budget=1)
    assert set(result.table["verdict"]) == {"best", "indistinguishable", "told apart"}
    sentence = "50 of 200 held-out cells were scored before the time was over. Not settled: b."
    assert sentence in " ".join(str(result).split())


def test_cells_in_pieces_keep_their_neighbours(cells):
    from pyroscvi.guides import SpatialGNN

    fits = {"a": [untrained(SCVI(latent=2, decoder=MLP(8)), SpatialGNN(), cells)] * 2}
    fits["b"] = fits["a"]
    how = {"particles": 10, "estimator": Importance(), "dtype": torch.float64}
    every, result = compare(fits, cells, **how), compare(fits, cells, **how, budget=600)
    assert result.looks > 1
    np.testing.assert_allclose(result.by_cell["log_evidence"], every.by_cell["log_evidence"], rtol=1e-9)
