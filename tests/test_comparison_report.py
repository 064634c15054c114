"""The pictures, the words and the page of a comparison show its numbers."""

import base64
import io
import re
from dataclasses import replace
from math import erf

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from comparisons import NAMES, renamed, two_genes_apart, with_seeds
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console

from pyroscvi.comparison.result import Behind
from pyroscvi.report import comparison as pictures
from pyroscvi.report import html, words
from pyroscvi.report.arviz_versions import arviz, first_generation, inference_data
from pyroscvi.report.labels import label
from pyroscvi.report.ranking import ranking

# As ArviZ knows it


def test_ranking_has_what_az_compare_of_0_x_has(comparison, monkeypatch):
    monkeypatch.setattr("pyroscvi.report.ranking.first_generation", lambda: True)
    ranked, table = ranking(comparison), comparison.table
    az_columns = ["rank", "elpd_loo", "p_loo", "elpd_diff", "weight", "se", "dse", "warning", "scale"]
    assert list(ranked.columns) == az_columns
    log_p = comparison.by_cell["log_evidence", NAMES[1]]
    assert ranked.loc[NAMES[1], "elpd_loo"] == pytest.approx(log_p.sum())
    assert ranked.loc[NAMES[1], "se"] == pytest.approx(np.std(log_p, ddof=1) * 120**0.5)
    np.testing.assert_allclose(ranked["elpd_diff"], -120 * table["difference"])
    np.testing.assert_allclose(ranked["dse"], 120 * table["standard_error"])
    assert list(ranked["warning"]) == [False, False, True, False]


def test_ranking_has_what_az_compare_of_1_x_has(comparison, monkeypatch):
    """The difference is negative since arviz-stats 1.1, and three columns are new in 1.2."""
    monkeypatch.setattr("pyroscvi.report.ranking.first_generation", lambda: False)
    ranked, table = ranking(comparison), comparison.table
    new = {"p_worse", "diag_diff", "diag_elpd"}
    assert set(ranked.columns) == {"rank", "elpd", "p", "elpd_diff", "weight", "se", "dse"} | new
    np.testing.assert_allclose(ranked["elpd_diff"], 120 * table["difference"])
    assert np.isnan(ranked["p_worse"].iloc[0])
    within = np.sqrt(2) * table["standard_error"].iloc[1]
    assert ranked["p_worse"].iloc[1] == pytest.approx((1 - erf(table["difference"].iloc[1] / within)) / 2)
    few = np.abs(ranked["elpd_diff"].to_numpy()[1:]) < 4
    assert list(ranked["diag_diff"]) == ["", *np.where(few, "|elpd_diff| < 4", "")]
    assert list(ranked["diag_elpd"]) == ["", "", "25% k-hat > 0.7", ""]
    assert list(ranking(undecided(comparison))["diag_diff"]) == ["", "undecided", "", "undecided"]


def test_arviz_draws_it(comparison):
    if first_generation():
        axes = arviz().plot_compare(ranking(comparison), ax=Figure().subplots(), show=False)
    else:
        axes = arviz().plot_compare(ranking(comparison)).viz["plot"].item()
        plt.close(axes.figure)
    assert axes.get_yticklabels()[0].get_text() == NAMES[0]


@pytest.mark.filterwarnings("ignore")  # arviz warns about these made-up numbers
def test_columns_and_sign_are_those_of_the_installed_arviz(comparison):
    rng = np.random.default_rng(0)
    groups = [
        {"posterior": {"m": rng.normal(size=(2, 50))}, "log_likelihood": {"x": rng.normal(size=(2, 50, 8)) - behind}}
        for behind in (0, 3)
    ]
    theirs = arviz().compare({name: inference_data(one, {}, {}, {}) for name, one in zip("ab", groups, strict=True)})
    ours = ranking(comparison)
    assert set(theirs.columns) == set(ours.columns)
    assert np.sign(theirs["elpd_diff"].iloc[-1]) == np.sign(ours["elpd_diff"].iloc[-1]) != 0
    for column in theirs:
        assert pd.api.types.is_numeric_dtype(theirs[column]) == pd.api.types.is_numeric_dtype(ours[column]), column


# Pictures


def test_every_fit_but_the_best_has_a_panel(comparison):
    figure = pictures.by_cell(comparison, "label")
    panels = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title(loc="left") for ax in panels] == NAMES[1:]
    at = np.asarray(panels[2].collections[0].get_offsets())
    assert len(at) == 120
    log_p = comparison.by_cell["log_evidence"]
    inside = np.sort(log_p["poisson"] - log_p[NAMES[0]])[3:-3]
    assert np.isin(inside.round(9), at[:, 1].round(9)).all()
    assert set(at[:, 0]) == set(comparison.by_cell["cell", "library_size"])
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {"T", "B", "NK <&>"}


def test_a_running_median_is_mentioned_where_it_is_drawn(comparison, monkeypatch):
    monkeypatch.setattr(html, "figure", lambda figure, caption: caption)
    few = replace(comparison, by_cell=comparison.by_cell.iloc[:24])
    for result, lines in ((comparison, 2), (few, 1)):
        assert len(pictures.by_cell(result).axes[0].lines) == lines  # and a line at zero
        assert ("running median" in html.page(result)) == (lines == 2)


def test_without_a_field_all_cells_are_one_group(comparison):
    assert not pictures.by_cell(comparison).legends
    assert [text.get_text() for text in pictures.winners(comparison).axes[0].get_yticklabels()] == ["all cells"]
    with pytest.raises(KeyError, match="no categorical field 'cell_type'; the fields are: label, donor"):
        pictures.by_cell(comparison, "cell_type")


def test_shares_of_winners_add_up_to_one(comparison):
    ax = pictures.winners(comparison, "label").axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["all cells", "T", "B", "NK <&>"]
    bars = [(round(bar.get_y() + bar.get_height() / 2), bar.get_width()) for bar in ax.patches]
    for row in range(4):
        assert sum(width for at, width in bars if at == row) == pytest.approx(1)
    first = comparison.by_cell["log_evidence"].idxmax(axis=1)
    shares = first.value_counts(normalize=True).reindex(NAMES).dropna()  # best fit first
    np.testing.assert_allclose([width for at, width in bars if at == 0], shares, atol=1e-12)
    assert {text.get_text() for text in ax.texts} == {"120", "40", "cells"}


def test_lines_join_fits_that_differ_in_width_alone(comparison):
    (ax,) = pictures.by_latent(comparison).axes
    (container,) = ax.containers
    assert container.get_label() == "nb"
    np.testing.assert_allclose(container.lines[0].get_xdata().astype(float), [5, 10])
    difference = comparison.table["difference"].iloc[[0, 2]]
    np.testing.assert_allclose(container.lines[0].get_ydata().astype(float), difference)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["5", "10"]
    fits = {**comparison.fits, NAMES[2]: comparison.fits[NAMES[2]]._replace(latent=5)}
    same = replace(comparison, fits=fits)
    assert not pictures.varies_in_width(same)
    with pytest.raises(ValueError, match=r"declare latent=\[5, 10, 20\]"):
        pictures.by_latent(same)


def test_genes_are_drawn_on_the_side_of_the_better_fit():
    left, right = two_genes_apart().plot().axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["IL7R", "MALAT1", "CD3E"]
    assert [text.get_text() for text in right.get_yticklabels()] == ["ACTB", "LYZ"]
    assert left.get_title(loc="left") == "better by zinb"
    filled = [tuple(colour) != (1, 1, 1, 1) for colour in left.collections[1].get_facecolors()]
    assert filled == [True, True, False]


HOSTILE = ["$x^$", r"$\bad{$", "cost $5 and $6", "_hidden"]


def test_names_are_drawn_as_they_are(comparison):
    """A dollar sign starts no formula, and a long name is wrapped or cut, but never drawn past the edge."""
    result = renamed(comparison, HOSTILE)
    figures = [result.plot(), pictures.by_cell(result, "label"), pictures.winners(result, "label")]
    for figure in figures:
        figure.savefig(io.BytesIO())
    assert [text.get_text() for text in figures[0].axes[0].get_yticklabels()] == [label(name) for name in HOSTILE]
    assert len(figures[2].legends[0].get_texts()) == len(set(result.by_cell["log_evidence"].idxmax(axis=1)))


def test_long_names_stay_inside_the_picture(comparison):
    result = renamed(comparison, [f"fit number {i} " + "of a long name " * 30 for i in range(4)])
    for figure in (result.plot(), pictures.by_cell(result, "label"), pictures.winners(result, "label")):
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        for text in figure.findobj(Text):
            if "fit number" in text.get_text():
                (left, bottom), (right, top) = text.get_window_extent(renderer).get_points()
                assert 0 <= left < right <= figure.bbox.width
                assert 0 <= bottom < top <= figure.bbox.height
        assert min(ax.get_window_extent(renderer).width for ax in figure.axes) > 150


# Words


def test_the_answer_is_in_words(comparison):
    table = comparison.table
    text = " ".join(words.answer(comparison))
    best = words.minus(table["evidence"].iloc[0], 2)
    assert text.startswith(f"nb, latent 5 explains the held-out cells best, with {best} nats a cell.")
    assert re.search(r"it is indistinguishable from zinb, latent 5 \(0\.\d\d ± 0\.20\)", text)
    behind = abs(table["difference"].iloc[2])
    assert f"told apart from it is nb, latent 10: {behind:.2f} ± 0.25 nats a cell lower" in text
    assert f"{behind * 120:,.0f} nats over the 120 cells and {behind / 0.25:.1f} standard errors" in text
    assert text.endswith("Also told apart: poisson.")


def test_an_only_fit_and_a_clear_winner(comparison):
    assert "It is the only fit" in words.answer(replace(comparison, table=comparison.table.iloc[:1]))[0]
    clear = replace(comparison, table=comparison.table.drop(index=NAMES[1]))
    assert "It is told apart from every other fit." in words.answer(clear)


def test_the_question_is_stated(comparison):
    text = " ".join(words.asked(comparison, "a tenth of every donor"))
    assert "log p(x | l)" in text
    assert "2,000 genes" in text
    assert "same 120 cells" in text
    assert "(a tenth of every donor)" in text
    assert "conditional on the observed total" in text
    proper = replace(comparison, table=comparison.table.assign(estimand="p(x)"))
    assert "conditional" not in " ".join(words.asked(proper))


def test_doubts_are_stated(comparison):
    text = " ".join(words.trusted(comparison))
    assert "The evidence of nb, latent 10 is uncertified" in text
    assert "over 6 clusters of cells (donor), paired. With so few" in text
    assert "one seed" not in text
    assert "For 25% of the cells of nb, latent 10" in text
    assert "The KL weight of nb, latent 10 ended below 1" in text
    for certificate, sentence in (
        ("uncertified", "their error was not measured"),
        ("certified (gap 0.01)", "All evidences are certified"),
        ("exact", "All evidences are exact."),
    ):
        same = replace(comparison, table=comparison.table.assign(certificate=certificate))
        assert sentence in words.trusted(same)[0]


def test_seeds_are_mentioned(comparison):
    once = with_seeds(comparison, **dict.fromkeys(NAMES, 1))
    assert "seeds" not in " ".join(words.asked(once))
    assert "Every model was fitted with one seed" in " ".join(words.trusted(once))
    some = with_seeds(once, poisson=3)
    some.table.loc["poisson", "seed_sd"] = 0.7
    text = " ".join(words.trusted(some))
    assert "vary between seeds by up to 0.7 nats a cell (standard deviation)" in text
    assert "nb, latent 5; zinb, latent 5; and nb, latent 10 was fitted with one seed" in text
    assert "and over up to 3 seeds of a fit. A difference" in " ".join(words.asked(some))
    every = with_seeds(comparison, **dict.fromkeys(NAMES, 10))
    assert "one seed" not in " ".join(words.trusted(every))
    assert "over 10 seeds of a fit" in " ".join(words.asked(every))


def undecided(comparison):
    verdicts = ["best", "undecided", "told apart", "undecided"]
    table = comparison.table.assign(verdict=verdicts, converged=[True, None, True, False])
    table["seeds"] = [3, 1, 3, 3]
    return replace(comparison, table=table)


def test_an_undecided_difference_says_why(comparison):
    text = " ".join(words.answer(undecided(comparison)))
    behind = abs(comparison.table["difference"].iloc[3])
    assert re.search(r"better than zinb, latent 5 \(0\.\d\d ± 0\.20\);? and poisson \(not converged\)", text)
    assert f"poisson (not converged) ({behind:.2f} ± 0.50) is undecided." in text
    assert "zinb, latent 5 was fitted with one seed, and one seed cannot tell models apart" in text
    assert "Not converged: poisson. The fit still improved when its training ended" in text
    assert "told apart from every other" not in text
    assert "told apart from it is nb, latent 10" in text
    alone = replace(comparison, table=undecided(comparison).table.iloc[[0, 3]])
    assert "told apart from every" not in " ".join(words.answer(alone))


def test_a_fit_that_has_not_converged_is_marked_wherever_it_stands(comparison):
    result = undecided(comparison)
    console = Console(file=io.StringIO(), width=160)
    console.print(result)
    assert "poisson (not converged)" in console.file.getvalue()
    page = html.page(result)
    assert all('<td class="word">poisson (not converged)</td>' in one for one in page.split("</table>")[:2])
    axes = result.plot().axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [*NAMES[:3], "poisson (not converged)"]
    assert "one seed: over cells alone" in axes.get_xlabel()
    assert pictures.by_cell(result).axes[2].get_title(loc="left") == "poisson (not converged)"
    behind = replace(result, by_cell=result.by_cell.copy())
    behind.by_cell["log_evidence", "poisson"] += 20
    legend = pictures.winners(behind).legends[0]
    assert "poisson (not converged)" in [text.get_text() for text in legend.get_texts()]
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["best", "told apart", "undecided"]
    assert "(not converged)" not in str(comparison)


def test_a_larger_model_that_is_behind_is_named(comparison):
    result = replace(comparison, behind=(Behind("ZINB", "NB", 1.2, 0.3),))
    sentence = "ZINB contains NB and is behind it, by 1.20 ± 0.30: it was not trained to its optimum"
    for text in (" ".join(str(result).split()), html.page(result), " ".join(words.trusted(result))):
        assert sentence in text


def test_the_optimism_of_the_best_is_stated(comparison):
    text = " ".join(words.trusted(replace(comparison, optimism=0.25)))
    assert "by 0.25 nats a cell if all were equally good (expected maximum)" in text
    assert "may be chance" not in text
    lead = comparison.table["evidence"].iloc[0] - comparison.table["evidence"].median()
    chance = " ".join(words.trusted(replace(comparison, optimism=2.0)))
    assert f"It is {lead:.2g} ahead of the middle one of them, which may be chance." in chance
    two = replace(comparison, table=comparison.table.iloc[:2], optimism=0.25)
    assert "expected maximum" not in " ".join(words.trusted(two))


def test_a_budget_says_what_is_not_settled(comparison):
    text = " ".join(words.trusted(replace(comparison, available=500)))
    assert "120 of 500 held-out cells were scored before the time was over. Not settled: zinb, latent 5." in text
    clear = replace(comparison, available=500, table=comparison.table.drop(index=NAMES[1]))
    assert "120 of 500 held-out cells were scored: they were enough" in " ".join(words.trusted(clear))
    assert "held-out cells were scored" not in " ".join(words.trusted(replace(comparison, available=120)))


def test_the_report_names_the_seed_of_its_gene_scores(comparison):
    genes = two_genes_apart()
    assert "first seed" not in html.page(comparison, genes=genes)
    twice = with_seeds(comparison, **dict.fromkeys(NAMES, 2))
    twice.fits[NAMES[0]].seeds[1] = {"seed": 1, "epochs": 55, "best_epoch": 15, "stopped_early": True}
    twice.table["seed_sd"], twice.table["active_units"] = 0.25, [4.5, 4, 7, np.nan]
    text = html.page(twice, genes=genes)
    assert "Both fits are those with the first seed." in text
    assert "<dt>epochs</dt><dd>40, of which the state after 31 was kept; 55, of which the state after 15" in text
    assert "2, with a standard deviation of 0.250 nats a cell between them" in text
    assert "4.5 of 5" in text


# The page


def test_the_report_is_one_file_without_links(comparison, tmp_path):
    file = comparison.report(
        tmp_path / "report.html", data="<blood>", genes=two_genes_apart(), failed={"zip": "not finite"}
    )
    text = file.read_text("utf-8")
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert not re.search(r"<script|@import|url\(", text)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == 5
    assert all(base64.b64decode(picture)[:4] == b"\x89PNG" for picture in pictures)
    assert "&lt;blood&gt;: 4 fits, 120 held-out cells, 2,000 genes" in text
    assert "<blood>" not in text
    assert "zip could not be fitted: not finite" in text


def test_a_page_begins_with_the_answer_and_shows_everything(comparison):
    genes = two_genes_apart()
    text = html.page(comparison, genes=genes)
    order = [
        "explains the held-out cells best",
        "The question",
        "How reliable it is",
        "<table>",
        "Pictures",
        "Models",
    ]
    places = [text.index(piece) for piece in order]
    assert places == sorted(places)
    results, used = (re.findall(r"<tr.*?</tr>", one) for one in re.findall(r"<table>.*?</table>", text))
    for rows in (results, used):
        assert [row.split("<td")[1].split(">")[1].split("<")[0] for row in rows[1:]] == NAMES
    assert "certified (gap 0.01)" in results[1]
    assert ">5 of 5<" in used[1]
    assert ">4.1 of 4.8<" in used[1]  # the log of 120 cells
    assert ">3.2<" in used[4]
    assert ">0.02 of 1.16<" in used[4]
    assert "SCVI(latent=5, likelihood=NB())" in text
    assert "40, of which the state after 31 was kept" in text
    assert "2 are predicted better by zinb and 1 by nb" in text
    plain = comparison.table.assign(components=np.nan, component_information=np.nan)
    assert "component" not in "".join(re.findall(r"<thead>.*?</thead>", html.page(replace(comparison, table=plain))))


def test_genes_are_printed_with_the_better_fit():
    printed = str(two_genes_apart())
    assert max(map(len, printed.splitlines())) <= 80
    assert "zinb against nb, 120 cells" in printed
    for gene in ("IL7R", "ACTB"):
        assert gene in printed
    assert "2 are predicted better by zinb and 1 by nb" in " ".join(printed.split())
