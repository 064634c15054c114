"""Pictures: what is drawn is what was found, and nothing of pyplot is left behind."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
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


def test_embedding_draws_every_cell_in_its_colour():
    xy = np.random.default_rng(0).normal(size=(50, 2))
    kinds = np.array(["T", "B"])[np.arange(50) % 2]
    ax = plots.embedding(xy, kinds)
    drawn = np.concatenate([np.asarray(collection.get_offsets()) for collection in ax.collections])
    colours = np.concatenate([collection.get_facecolors() for collection in ax.collections])
    at = {tuple(point): to_hex(colour) for point, colour in zip(drawn.tolist(), colours, strict=True)}
    assert len(at) == 50
    assert len({at[tuple(point)] for point in xy[kinds == "T"].tolist()}) == 1
    assert {at[tuple(point)] for point in xy[kinds == "B"].tolist()}.isdisjoint(
        at[tuple(point)] for point in xy[kinds == "T"].tolist()
    )
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["B", "T"]


def test_many_groups_differ_in_colour_or_shape():
    styles = plots._styles([str(i) for i in range(40)])
    assert len(set(styles)) == 40


def test_missing_groups_are_a_group_of_their_own():
    ax = plots.embedding(np.zeros((3, 2)), pd.Categorical(["T", None, "B"]))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["not known", "B", "T"]


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_latents_has_a_panel_for_every_fit_and_one_legend(count, monkeypatch):
    monkeypatch.setattr(plots, "umap", lambda z, **_: z[:, :2])
    z = {f"fit {i}": np.random.default_rng(i).normal(size=(20, 3)) for i in range(count)}
    figure = plots.latents(z, np.arange(20) % 3)
    assert [ax.get_title(loc="left") for ax in figure.axes if ax.axison] == list(z)
    assert len(figure.legends) == 1
    assert all(ax.get_legend() is None for ax in figure.axes)


def test_umap_keeps_neighbours():
    kinds = np.arange(60) % 2
    z = np.random.default_rng(0).normal(size=(60, 5)) + 20 * kinds[:, None]
    xy = plots.umap(z, seed=1)
    assert xy.shape == (60, 2)
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1) + 1e9 * np.eye(60)
    assert (kinds[distance.argmin(1)] == kinds).all()
    np.testing.assert_array_equal(plots.umap(z, seed=1), xy)


def test_umap_leaves_generators_and_threads_alone():
    """In a process of its own: it is the first use, which imports and compiles, that draws from them."""
    program = """
import random
import numpy as np, torch
from pyroscvi.report import plots
random.seed(0), np.random.seed(0), torch.manual_seed(0)
torch.set_num_threads(1)
def draws(): return random.random(), np.random.rand(), torch.rand(1).item()
before = random.getstate(), np.random.get_state(), torch.get_rng_state()
expected = draws()
random.setstate(before[0]), np.random.set_state(before[1]), torch.set_rng_state(before[2])
plots.umap(np.random.default_rng(0).normal(size=(30, 3)))
print(draws() == expected and torch.get_num_threads() == 1)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["True"], done.stderr


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
