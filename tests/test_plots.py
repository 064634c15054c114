"""Pictures show the values of the results, and leave the state of pyplot unchanged."""

import numpy as np
import pandas as pd
from comparisons import NAMES
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from pyroscvi.report import plots
from pyroscvi.report.words import minus


def history(epochs: int, held_out: bool = True) -> pd.DataFrame:
    bound = -100 - 50 / np.arange(1, epochs + 1)
    unseen = bound - 5 if held_out else np.full(epochs, np.nan)
    return pd.DataFrame({"epoch": range(1, epochs + 1), "elbo_train": bound, "elbo_held_out": unseen})


def lines(ax):
    return [line for line in ax.lines if len(line.get_xdata()) == 1]


def test_comparison_draws_differences_and_two_errors(comparison):
    ax, table = plots.comparison(comparison), comparison.table
    bars = [np.ptp(container.lines[2][0].get_segments()[0][:, 0]) / 2 for container in ax.containers]
    np.testing.assert_allclose(bars, 2 * table["standard_error"])
    np.testing.assert_allclose([float(line.get_xdata()[0]) for line in lines(ax)][:4], table["difference"])
    assert [text.get_text() for text in ax.get_yticklabels()] == NAMES
    assert ax.yaxis_inverted()  # the best on top
    assert "p(x | l)" in ax.get_xlabel()
    assert {text.get_text() for text in ax.texts} == {"evidence", *(minus(value, 1) for value in table["evidence"])}
    (legend,) = ax.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["best", "told apart", "indistinguishable"]


def test_comparison_fills_the_mark_of_a_fit_that_is_told_apart(comparison):
    faces = [to_hex(line.get_markerfacecolor()) for line in lines(plots.comparison(comparison))][:4]
    assert faces[1] == "#ffffff"
    assert len(set(faces)) == 3


def test_history_shows_the_held_out_bound(tmp_path):
    ax = plots.history({"nb": history(20), "zinb": history(30)})
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["nb", "zinb"]
    bold = [line for line in ax.lines if line.get_label() in ("nb", "zinb")]
    np.testing.assert_array_equal(bold[1].get_ydata(), history(30)["elbo_held_out"])


def test_history_without_held_out_cells():
    ax = plots.history({"nb": history(3, held_out=False)})
    plots.history({"nb": history(1, held_out=False)})  # a single point has no spread
    (bold,) = [line for line in ax.lines if line.get_label() == "nb"]
    np.testing.assert_array_equal(bold.get_ydata(), history(3)["elbo_train"])
    assert np.isfinite(ax.get_ylim()).all()


def test_pictures_are_drawn_without_pyplot(comparison, tmp_path):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    shared = Figure().subplots()
    assert plots.comparison(comparison, ax=shared) is shared
    plots.history({"nb": history(1)}).figure.savefig(tmp_path / "history.pdf")
    plots.comparison(comparison).figure.savefig(tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").stat().st_size > 1000
    assert plt.get_fignums() == before


def test_history_of_a_fit_that_diverged_is_drawn():
    run = history(3)
    run.loc[2, ["elbo_train", "elbo_held_out"]] = -np.inf
    assert np.isfinite(plots.history({"nb": run}).get_ylim()).all()
