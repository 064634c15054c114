"""The table of guaranteed figures, with stubs for the measurements; the real one: ``python benchmarks/to_hold.py``."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pyroscvi.calibration import Calibration
from pyroscvi.calibration.ranks import Ranks

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import to_hold

FIGURES = {
    "likelihoods": [
        *("log p in 50 digits: error / (1 + its size), float32", "its derivatives in 50 digits, float32"),
        *("log p in 50 digits: error / (1 + its size), float64", "its derivatives in 50 digits, float64"),
        "a cell of 2,000 genes, float32, theta from 1e-08 to 1e+10",
        "NaN on a valid input, in values and derivatives",
        "theta = infinity: values and derivatives unlike Poisson's",
        "each pmf summed, minus 1",
        "samples: smallest p of chi-square tests against the pmf",
        "gradcheck passes",
    ],
    "evidence": [
        "mean error on every problem, 29 of them, 32 cells each",
        "the same: error of every cell",
        "problems whose evidence is known",
        "coverage of two Monte Carlo standard errors",
        "NB with theta = 1e6 minus Poisson, every cell",
        "other minibatches, chunks and neighbours, float64: difference",
        "NB with a normal latent: difference from scvi-tools, in cells with light tails",
    ],
    "comparisons": ["the generator comes first or is tied"],
    "calibration": [
        "ranks of importance-corrected draws pass, every page",
        *("ranks of a control: exact", "ranks of a control: best mean field", "ranks of a control: the prior"),
    ],
    "mixtures": [
        "five clusters, SCVI, Mixture(5): 4.5 effective components",
        "five clusters, GMVAE(kinds=5): 4.5 effective components",
        "one cluster: five components ahead, in standard errors",
    ],
}
SCVI_TOOLS = FIGURES["evidence"][-1]
EVEN, AT_ZERO = (Ranks(pd.DataFrame({"z": ranks})) for ranks in (np.arange(100), np.zeros(100, dtype=int)))


def scored(shift=0.0, outlier=0.0, missed=1, in_pieces=0.0):
    """Stub of ``scored``: errors of ±0.01, within two standard errors of 0.0075, except in ``missed`` cells."""
    error = 0.01 * (-1.0) ** np.arange(32) + shift
    error[20] += outlier
    table = pd.DataFrame({"log_evidence": error, "error": error, "monte_carlo_se": 0.0075})
    table.loc[np.arange(32) < missed, "monte_carlo_se"] = 0.001
    return lambda problem, estimators, n, **room: {
        name: table[:n].assign(log_evidence=error[:n] + (in_pieces if room else 0)) for name in estimators
    }


def judgements(lost):
    def stub(runs, **size):
        for i in range(3 * runs):
            yield {
                "run": i // 3,
                "generator": ("Poisson", "NB", "ZINB")[i % 3],
                "place": "lost" if i < lost else "tied",
            }

    return stub


def measured(exact=EVEN, mean_field=AT_ZERO, corrected=EVEN):
    def stub(pages, guides, **size):
        for name, guide in {"exact": exact, "best mean field": mean_field, "the prior": AT_ZERO}.items():
            yield f"ppca, {name}", Calibration(guide, EVEN, 1.0), 1.0
        for name in (f"{page}, {guide}" for guide in guides for page in pages):
            yield name, Calibration(AT_ZERO, corrected, 1.0), 1.0

    return stub


def fitted(collapsed):
    def stub(seeds, ways, cells, epochs):
        for i, seed in enumerate(seeds):
            yield from ({"seed": seed, "way": way, "components": 3.0 if i < collapsed else 5.0} for way in ways)

    return stub


REACHED = {  # every measurement reaches its target narrowly
    "exact.reference_errors": lambda *of: {"value": 9e-14, "mu": 9e-13},
    "exact.cell_error": lambda *of: (0.0009, 0.001),
    "exact.nans": lambda *of: (0, 10, 0.0),
    "exact.unlike_poisson": lambda *of: (0, 10, 0.0),
    "exact.mass_and_moments": lambda *of: (9e-11, None, None),
    "exact.sampling_p": lambda *of: 0.002,
    "exact.gradients_agree": lambda *of, **options: True,
    "scored": scored(shift=0.004, outlier=0.03),
    "nearly_poisson": lambda quick: {"cells of NB": 0.009},
    "find_spec": lambda name: None,
    "judgements": judgements(3),
    "measured": measured(),
    "fitted": fitted(1),
    "ahead": lambda *of, **size: {"ahead": 1.9},
}
MISSED = [  # figure, measurement, stub that misses the target
    (FIGURES["likelihoods"][0], "exact.reference_errors", lambda *of: {"value": 6e-6, "mu": 0.0}),
    (FIGURES["likelihoods"][3], "exact.reference_errors", lambda *of: {"value": 0.0, "mu": 0.0, "theta": float("nan")}),
    (FIGURES["likelihoods"][4], "exact.cell_error", lambda theta, size: (0.0011 if theta == 1e6 else 0.0, 0.001)),
    (FIGURES["likelihoods"][5], "exact.nans", lambda *of: (1, 10, 0.0)),
    (FIGURES["likelihoods"][6], "exact.unlike_poisson", lambda *of: (1, 10, 0.0)),
    (FIGURES["likelihoods"][7], "exact.mass_and_moments", lambda *of: (2e-10, None, None)),
    (FIGURES["likelihoods"][8], "exact.sampling_p", lambda *of: 0.0009),
    (FIGURES["likelihoods"][8], "exact.sampling_p", lambda name, mu: float("nan") if mu == 4 else 0.5),
    (FIGURES["likelihoods"][9], "exact.gradients_agree", lambda name, shared, **options: shared),
    (FIGURES["evidence"][0], "scored", scored(shift=0.006)),
    (FIGURES["evidence"][1], "scored", scored(outlier=0.07)),
    (FIGURES["evidence"][0], "scored", scored(outlier=float("nan"))),
    (FIGURES["evidence"][1], "scored", scored(outlier=float("nan"))),
    (FIGURES["evidence"][2], "PROBLEMS", ["nb"] * 23),
    (FIGURES["evidence"][3], "scored", scored(missed=3)),
    (FIGURES["evidence"][3], "scored", scored(missed=0)),
    (FIGURES["evidence"][4], "nearly_poisson", lambda quick: {"cells of Poisson": 0.0, "cells of NB": 0.011}),
    (FIGURES["evidence"][5], "scored", scored(in_pieces=1.1e-9)),
    (FIGURES["comparisons"][0], "judgements", judgements(4)),
    (FIGURES["calibration"][0], "measured", measured(corrected=AT_ZERO)),
    (FIGURES["calibration"][1], "measured", measured(exact=AT_ZERO)),
    (FIGURES["calibration"][2], "measured", measured(mean_field=EVEN)),
    (FIGURES["mixtures"][0], "fitted", fitted(2)),
    (FIGURES["mixtures"][2], "ahead", lambda cells, scored, seed, **size: {"ahead": 2.1 if seed == 22 else 0.0}),
]


@pytest.fixture
def reaching(monkeypatch):
    """Replaces every measurement by a stub that reaches its target."""
    for name, measurement in REACHED.items():
        monkeypatch.setattr(f"to_hold.{name}", measurement)


def table(printed):
    """Rows of the printed table, by figure."""
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows[1:]}


def test_every_figure_has_a_row(reaching, capsys, tmp_path):
    assert to_hold.main(["--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    rows, figures = table(printed), [name for names in FIGURES.values() for name in names]
    assert list(rows) == figures
    assert rows[SCVI_TOOLS][1].startswith("not measured (scvi-tools is not installed)")
    assert all(row[2] == "yes" for name, row in rows.items() if name != SCVI_TOOLS)
    assert "24 of 25 reach their target; 1 not measured; 0 do not" in printed
    assert rows[FIGURES["comparisons"][0]] == ["57 of 60", "57 of 60 (Poisson 19, NB 19, ZINB 19)", "yes"]
    assert "the full run" in printed
    written = json.loads((tmp_path / "to_hold.json").read_text())
    assert [row["figure"] for row in written["rows"]] == figures
    assert (tmp_path / "to_hold.md").read_text().strip() in printed


@pytest.mark.parametrize(("figure", "measurement", "stub"), MISSED)
def test_a_figure_that_misses_its_target_is_named_and_fails(figure, measurement, stub, reaching, monkeypatch, capsys):
    monkeypatch.setattr(f"to_hold.{measurement}", stub)
    (section,) = (name for name, figures in FIGURES.items() if figure in figures)
    assert to_hold.main(["--only", section]) == 1
    printed = capsys.readouterr().out
    assert "| **no** |" in printed
    start = "  target not reached: "
    named = [line.removeprefix(start) for line in printed.splitlines() if line.startswith(start)]
    assert figure in named or measurement == "PROBLEMS"
    assert len(named) == printed.count("| **no** |")


def test_scvi_tools_is_compared_if_it_is_installed(reaching, monkeypatch, capsys):
    """No compared cell may differ by five Monte Carlo errors or more."""
    row = {"difference in these": 0.001, "Monte Carlo error": 0.004, "cells with k-hat below 0.5": 29}
    parser = SimpleNamespace(parse_args=lambda arguments: SimpleNamespace(held_out=64))
    parity = SimpleNamespace(LIGHT=0.5, parser=lambda: parser, halves=lambda settings: (1, 2))
    monkeypatch.setattr("to_hold.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "parity", parity)
    for farthest, status in ((3.4, 0), (5.1, 1), (float("nan"), 1)):
        parity.row = lambda *arguments, f=farthest: row | {"farthest, in errors": f}
        assert to_hold.main(["--only", "evidence"]) == status
        printed = table(capsys.readouterr().out)[SCVI_TOOLS]
        assert printed[1].startswith(f"{farthest:.1f} at most, mean difference 0.001 ± 0.004 nats, 29 of 64 cells")


def test_a_nan_is_the_worst_error():
    assert to_hold.worst("x", 3, {"a": 1.0, "b": float("nan"), "c": 2.0}) == ("x", "below 3", "nan (b)", False)


def test_the_coverage_of_few_cells_is_not_judged(reaching, capsys):
    assert to_hold.main(["--only", "evidence", "--quick"]) == 0
    printed = capsys.readouterr().out
    assert "a quick run at small sizes: the targets are those of the full run" in printed
    assert table(printed)["coverage of two Monte Carlo standard errors"][1].endswith("of 36 cells, too few to tell")


def test_likelihoods_reach_their_targets(capsys):
    assert to_hold.main(["--only", "likelihoods", "--quick"]) == 0
    assert "10 of 10 reach their target; 0 not measured; 0 do not" in capsys.readouterr().out
