"""What is drawn and said of a comparison is what was found."""

import base64
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from pyroscvi.report import comparison, html, words
from pyroscvi.report.arviz_versions import arviz
from pyroscvi.report.ranking import ranking

NAMES = ["nb, latent 5", "zinb, latent 5", "nb, latent 10", "poisson"]


@pytest.fixture
def table() -> pd.DataFrame:
    """Four fits of 120 cells of three types."""
    rng = np.random.default_rng(0)
    n = 120
    base = -500 + 50 * rng.normal(size=n)
    log_p = {name: base - behind + rng.normal(size=n) for name, behind in zip(NAMES, (0, 0.1, 1, 9), strict=True)}
    mean = {name: values.mean() for name, values in log_p.items()}
    difference = [mean[name] - mean[NAMES[0]] for name in NAMES]
    found = pd.DataFrame(
        {
            "evidence": list(mean.values()),
            "difference": difference,
            "standard_error": [0.0, 0.2, 0.25, 0.5],
            "over_cells": [0.0, 0.1, 0.1, 0.2],
            "over_clusters": [0.0, 0.2, 0.25, 0.5],
            "monte_carlo": [0.0, 0.01, 0.02, 0.01],
            "verdict": ["best", "indistinguishable", "told apart", "told apart"],
            "refits": np.nan,
            "weight": [0.6, 0.3, 0.1, 0.0],
            "estimand": "p(x | l)",
            "heavy_tailed": [0.0, 0.0, 0.25, 0.0],
            "active_units": [5.0, 4.0, 7.0, np.nan],
            "information": [4.1, 3.9, 4.3, np.nan],
            "components": [np.nan, np.nan, np.nan, 3.2],
            "component_information": [np.nan, np.nan, np.nan, 0.02],
            "kl_weight": [1.0, 1.0, 0.5, np.nan],
            "parameters": [1000, 2000, 1500, 10],
            "seconds": [3.0, 4.0, 5.0, np.nan],
            "certificate": ["certified (gap 0.01)", "certified (gap 0.02)", "uncertified (gap 3)", "exact"],
        },
        index=pd.Index(NAMES, name="fit"),
    )
    found.attrs = {
        "note": "",
        "by": "donor",
        "clusters": 6,
        "particles": 100,
        "cells": [f"cell{i}" for i in range(n)],
        "log_evidence": {name: values.tolist() for name, values in log_p.items()},
        "monte_carlo_se": {name: [0.1] * n for name in NAMES},
        "library_size": rng.integers(200, 9000, n).tolist(),
        "groups": {"label": np.array(["T", "B", "NK <&>"])[np.arange(n) % 3].tolist(), "donor": ["d"] * n},
        "genes": 2000,
        "declared": {
            NAMES[0]: ("SCVI(latent=5, likelihood=NB())", "MeanField()"),
            NAMES[1]: ("SCVI(latent=5)", "MeanField()"),
            NAMES[2]: ("SCVI(likelihood=NB())", "MeanField()"),
            NAMES[3]: ("PoissonLogNormal()", "MeanField()"),
        },
        "latent": {NAMES[0]: 5, NAMES[1]: 5, NAMES[2]: 10, NAMES[3]: None},
        "fitted": {name: [{}] for name in NAMES}
        | {NAMES[0]: [{"seed": 0, "epochs": 40, "best_epoch": 31, "cells": {"train": 900, "held_out": 100}}]},
        "seeds": dict.fromkeys(NAMES, 1),
    }
    return found


@pytest.fixture
def genes() -> pd.DataFrame:
    found = pd.DataFrame(
        {
            "predicted": [30.0, 6.0, 1.0, -2.0, -8.0],
            "predicted_error": [5.0, 1.0, 2.0, 3.0, 1.0],
            "verdict": ["zinb", "zinb", "indistinguishable", "indistinguishable", "nb"],
        },
        index=pd.Index(["IL7R", "MALAT1", "CD3E", "LYZ", "ACTB"], name="gene"),
    )
    found.attrs = {"first": "zinb", "second": "nb", "cells": 120, "by": None}
    return found


# As ArviZ knows it


def test_ranking_has_what_az_compare_has(table):
    ranked = ranking(table)
    az_columns = ["rank", "elpd_loo", "p_loo", "elpd_diff", "weight", "se", "dse", "warning", "scale"]
    assert list(ranked.columns) == az_columns
    log_p = np.array(table.attrs["log_evidence"][NAMES[1]])
    assert ranked.loc[NAMES[1], "elpd_loo"] == pytest.approx(log_p.sum())
    assert ranked.loc[NAMES[1], "se"] == pytest.approx(np.std(log_p, ddof=1) * 120**0.5)
    np.testing.assert_allclose(ranked["elpd_diff"], -120 * table["difference"])
    np.testing.assert_allclose(ranked["dse"], 120 * table["standard_error"])
    assert list(ranked["warning"]) == [False, False, True, False]


def test_arviz_draws_it(table):
    figure = Figure()
    ax = arviz().plot_compare(ranking(table), ax=figure.subplots(), show=False)
    assert ax.get_yticklabels()[0].get_text() == NAMES[0]


@pytest.mark.filterwarnings("ignore")  # what arviz thinks of these numbers is nobody's concern
def test_columns_are_those_of_arvizs_own_table(table):
    """The same columns, in the same kinds, as az.compare makes by itself."""
    rng = np.random.default_rng(0)
    az = arviz()
    data = {
        name: az.from_dict(posterior={"m": rng.normal(size=(2, 50))}, log_likelihood={"x": rng.normal(size=(2, 50, 8))})
        for name in ("a", "b")
    }
    theirs = az.compare(data, ic="loo")
    assert set(theirs.columns) == set(ranking(table).columns)


# Pictures


def test_every_fit_but_the_best_has_a_panel(table):
    figure = comparison.by_cell(table, "label")
    panels = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title(loc="left") for ax in panels] == NAMES[1:]
    at = np.asarray(panels[2].collections[0].get_offsets())
    assert len(at) == 120
    shown = np.subtract(table.attrs["log_evidence"]["poisson"], table.attrs["log_evidence"][NAMES[0]])
    inside = np.sort(shown)[3:-3]
    assert np.isin(inside.round(9), at[:, 1].round(9)).all()
    assert set(at[:, 0]) == set(table.attrs["library_size"])
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {"T", "B", "NK <&>"}


def test_without_a_field_all_cells_are_one(table):
    assert not comparison.by_cell(table).legends
    assert [label.get_text() for label in comparison.winners(table).axes[0].get_yticklabels()] == ["all cells"]
    with pytest.raises(KeyError, match="no field 'cell_type'; there are label, donor"):
        comparison.by_cell(table, "cell_type")


def test_winners_add_up(table):
    ax = comparison.winners(table, "label").axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["all cells", "T", "B", "NK <&>"]
    bars = [(round(bar.get_y() + bar.get_height() / 2), bar.get_width()) for bar in ax.patches]
    for row in range(4):
        assert sum(width for at, width in bars if at == row) == pytest.approx(1)
    first = pd.DataFrame(table.attrs["log_evidence"]).idxmax(axis=1)
    shares = first.value_counts(normalize=True).reindex(table.index).dropna()  # best fit first
    np.testing.assert_allclose([width for at, width in bars if at == 0], shares, atol=1e-12)
    assert {text.get_text() for text in ax.texts} == {"120", "40", "cells"}


def test_lines_are_of_fits_that_differ_in_width_alone(table):
    (ax,) = comparison.by_latent(table).axes
    (container,) = ax.containers
    assert container.get_label() == "nb"
    np.testing.assert_allclose(container.lines[0].get_xdata().astype(float), [5, 10])
    np.testing.assert_allclose(container.lines[0].get_ydata().astype(float), table["difference"].iloc[[0, 2]])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["5", "10"]
    table.attrs["latent"][NAMES[2]] = 5
    assert not comparison.varies_in_width(table)
    with pytest.raises(ValueError, match=r"declare latent=\[5, 10, 20\]"):
        comparison.by_latent(table)


def test_genes_are_drawn_on_the_side_of_the_better_fit(genes):
    left, right = comparison.by_gene(genes).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["IL7R", "MALAT1", "CD3E"]
    assert [label.get_text() for label in right.get_yticklabels()] == ["ACTB", "LYZ"]
    assert left.get_title(loc="left") == "better by zinb"
    filled = [tuple(colour) != (1, 1, 1, 1) for colour in left.collections[1].get_facecolors()]
    assert filled == [True, True, False]


# Words


def test_the_answer_is_in_words(table):
    said = " ".join(words.answer(table))
    assert said.startswith(
        f"nb, latent 5 explains the held-out cells best, with {words.minus(table['evidence'].iloc[0], 2)}"
    )
    assert re.search(r"do not tell it apart from zinb, latent 5 \(0\.\d\d ± 0\.20\)", said)
    behind = abs(table["difference"].iloc[2])
    assert f"told apart is nb, latent 10: {behind:.2f} ± 0.25 nats a cell behind" in said
    assert f"{behind * 120:,.0f} nats over the 120 cells and {behind / 0.25:.1f} standard errors" in said
    assert said.endswith("Also told apart: poisson.")


def test_an_only_fit_and_a_clear_winner(table):
    assert "There is no other" in words.answer(table.iloc[:1])[0]
    clear = table.drop(index=NAMES[1])
    assert "and is told apart from every other fit." in words.answer(clear)[0]


def test_what_was_asked_is_said(table):
    said = " ".join(words.asked(table, "a tenth of every donor"))
    assert "log p(x | l)" in said
    assert "2,000 genes" in said
    assert "same 120 cells" in said
    assert "(a tenth of every donor)" in said
    assert "conditional on the observed total" in said
    assert "conditional" not in " ".join(words.asked(table.assign(estimand="p(x)")))


def test_doubts_are_said(table):
    said = " ".join(words.trusted(table))
    assert "The evidence of nb, latent 10 is uncertified" in said
    assert "over 6 clusters of cells (donor), paired. With so few" in said
    assert "what another seed would have given is in no error" in said
    assert "For 25% of the cells of nb, latent 10" in said
    assert "The KL weight of nb, latent 10 ended below 1" in said
    table["certificate"] = "uncertified"
    assert "nobody has measured" in words.trusted(table)[0]
    table["certificate"] = "certified (gap 0.01)"
    assert "All evidences are certified" in words.trusted(table)[0]
    table["certificate"] = "exact"
    assert words.trusted(table)[0] == "All evidences are exact."


def test_seeds_are_said(table):
    assert "seeds" not in " ".join(words.asked(table))
    table.attrs["seeds"]["poisson"], table.loc["poisson", "refits"] = 3, 0.7
    said = " ".join(words.trusted(table))
    assert "varies by up to 0.7 nats a cell (standard deviation)" in said
    assert "with so few of them is not well known itself" in said
    assert "Fitted once, and without such an error: nb, latent 5; zinb, latent 5; and nb, latent 10." in said
    assert "and over up to 3 seeds that each was fitted with. A difference" in " ".join(words.asked(table))
    table.attrs["seeds"] = dict.fromkeys(NAMES, 10)
    said = " ".join(words.trusted(table))
    assert "a mean over the seeds varies by. " in said
    assert "Fitted once" not in said
    assert "over 10 seeds that each" in " ".join(words.asked(table))


def test_a_page_says_of_which_seed_it_speaks(table, genes):
    once = html.page(table, genes=genes)
    assert "first seed" not in once
    table.attrs["seeds"], table["refits"] = dict.fromkeys(NAMES, 2), 0.25
    table.attrs["fitted"][NAMES[0]].append({"seed": 1, "epochs": 55, "best_epoch": 15, "stopped_early": True})
    twice = html.page(table.assign(active_units=[4.5, 4, 7, np.nan]), genes=genes)
    assert "Both fits are those with the first seed." in twice
    assert "<dt>epochs</dt><dd>40, of which the state after 31 was kept; 55, of which the state after 15" in twice
    assert "2, with a standard deviation of 0.250 nats a cell between them" in twice
    assert "4.5 of 5" in twice


# The page


def test_a_page_needs_nothing_from_elsewhere(table, genes, tmp_path):
    file = html.write(table, tmp_path / "report.html", data="<blood>", genes=genes, failed={"zip": "not finite"})
    text = file.read_text("utf-8")
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert not re.search(r"<script|@import|url\(", text)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == 5
    assert all(base64.b64decode(picture)[:4] == b"\x89PNG" for picture in pictures)
    assert "&lt;blood&gt;: 4 fits, 120 held-out cells, 2,000 genes" in text
    assert "<blood>" not in text
    assert "zip could not be fitted: not finite" in text


def test_a_page_says_it_first_and_shows_all_of_it(table, genes):
    text = html.page(table, genes=genes)
    order = [
        "explains the held-out cells best",
        "What was asked",
        "How far to trust it",
        "<table>",
        "Pictures",
        "Models",
    ]
    places = [text.index(piece) for piece in order]
    assert places == sorted(places)
    found, used = (re.findall(r"<tr.*?</tr>", one) for one in re.findall(r"<table>.*?</table>", text))
    for rows in (found, used):
        assert [row.split("<td")[1].split(">")[1].split("<")[0] for row in rows[1:]] == NAMES
    assert "certified (gap 0.01)" in found[1]
    assert ">5 of 5<" in used[1]
    assert ">4.1 of 4.8<" in used[1]  # the log of 120 cells
    assert ">3.2<" in used[4]
    assert ">0.02 of 1.16<" in used[4]
    assert "SCVI(latent=5, likelihood=NB())" in text
    assert "40, of which the state after 31 was kept" in text
    assert "2 are predicted better by zinb and 1 by nb" in text
    plain = html.page(table.assign(components=np.nan, component_information=np.nan))
    assert "component" not in "".join(re.findall(r"<thead>.*?</thead>", plain))
