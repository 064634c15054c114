"""A comparison prefers the model that generated the data. One run each; ``benchmarks/recoveries.py`` has twenty."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import pyroscvi as ps

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from common import markdown
from recoveries import LIKELIHOODS, compared, judged, made, summary

MEANS = {"ZINB": 0.005, "NB": 0.0, "Poisson": -1.0}


@pytest.fixture(scope="module")
def runs():
    torch.set_num_threads(1)
    return {name: judged(compared(name, 0, 300, 150, epochs=100, batch_size=100), name) for name in LIKELIHOODS}


@pytest.mark.parametrize("generator", LIKELIHOODS)
def test_the_model_that_generated_the_data_is_first_or_tied(generator, runs):
    assert runs[generator]["place"] in ("first", "tied")


def test_over_dispersed_data_are_distinguished_from_a_poisson(runs):
    assert runs["NB"]["Poisson told apart"]
    assert runs["NB"]["Poisson ahead"] > 1
    assert runs["ZINB"]["Poisson told apart"]


def test_simulated_cells_depend_on_the_seed_and_have_more_zeros_with_over_dispersion():
    zeros = {name: (made(name, 1000, seed=1).x == 0).float().mean() for name in LIKELIHOODS}
    assert 0.4 < zeros["Poisson"] < zeros["NB"] < zeros["ZINB"] < 0.9
    assert torch.equal(made("NB", 50, seed=1).x, made("NB", 50, seed=1).x)
    assert not torch.equal(made("NB", 50, seed=1).x, made("NB", 50, seed=2).x)


def test_the_summary_of_a_comparison_compares_the_generator_with_the_best_and_others_with_the_generator():
    generator = torch.Generator().manual_seed(0)
    of = {name: torch.randn(100, generator=generator).numpy() * 0.1 + mean for name, mean in MEANS.items()}
    table = pd.DataFrame({"verdict": ["best", "indistinguishable", "told apart"]}, index=["ZINB", "NB", "Poisson"])
    by_cell = pd.concat({"log_evidence": pd.DataFrame(of)}, axis=1)
    comparison = ps.Comparison(table, by_cell, fits={}, genes=40, particles=500)
    rows = [judged(comparison, name) for name in ("NB", "NB", "Poisson")]
    assert [row["place"] for row in rows] == ["tied", "tied", "lost"]
    assert rows[0]["Poisson told apart"]
    assert rows[0]["Poisson ahead"] == pytest.approx(1, abs=0.05)
    assert not rows[0]["ZINB told apart"]
    assert not rows[2]["NB told apart"]  # NB is told apart, but it is ahead and not behind
    lines = summary(pd.DataFrame(rows))
    assert list(lines.loc["NB, 2 runs", ["first", "tied", "lost", "Poisson told apart"]]) == [0, 2, 0, 2]
    assert pd.isna(lines.loc["NB, 2 runs", "NB told apart"])
    assert "| NB, 2 runs | 0 | 2 | 0 | 2 |" in markdown(lines)
