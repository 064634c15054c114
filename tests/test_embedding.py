"""Pictures of cells: every cell is drawn in the colour of its type, and nothing is cut off."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from pyroscvi.report import embedding
from pyroscvi.report.plots import palette

XY = np.random.default_rng(0).normal(size=(3000, 2))
KINDS = np.arange(3000)


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_embedding_draws_every_cell_in_its_colour():
    xy = np.random.default_rng(0).normal(size=(50, 2))
    kinds = np.array(["T", "B"])[np.arange(50) % 2]
    ax = embedding.embedding(xy, kinds)
    drawn = np.concatenate([np.asarray(collection.get_offsets()) for collection in ax.collections])
    colours = np.concatenate([collection.get_facecolors() for collection in ax.collections])
    at = {tuple(point): to_hex(colour) for point, colour in zip(drawn.tolist(), colours, strict=True)}
    assert len(at) == 50
    assert len({at[tuple(point)] for point in xy[kinds == "T"].tolist()}) == 1
    assert {at[tuple(point)] for point in xy[kinds == "B"].tolist()}.isdisjoint(
        at[tuple(point)] for point in xy[kinds == "T"].tolist()
    )
    assert legend_of(ax.figure) == ["B", "T"]


@pytest.mark.parametrize("count", [1, 10, 11, 20, 28, 31, 102])
def test_every_level_has_a_colour_of_its_own(count):
    assert len(set(palette([str(i) for i in range(count)]).values())) == count


@pytest.mark.parametrize("count", [3, 11, 31])
def test_a_saved_picture_has_the_whole_legend(count):
    names = np.array([f"a rather long name of a cell type {i}" for i in range(count)])
    for figure in (embedding.embedding(XY, names[KINDS % count]).figure, embedding.tissue(XY, names[KINDS % count])):
        figure.canvas.draw()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
        panel = figure.axes[0].get_window_extent()
        assert panel.x1 < box.x0
        assert panel.width > 400


def test_marks_are_large_enough_to_be_seen():
    (drawn,) = embedding.embedding(XY).collections
    assert np.sqrt(drawn.get_sizes()[0]) * embedding.embedding(XY).figure.dpi / 72 > 4  # pixels across, of 3,000 cells


def test_many_numbers_have_a_colour_bar():
    ax = embedding.embedding(XY, XY[:, 0])
    assert len(ax.child_axes) == 1
    assert ax.figure.legends == []


@pytest.mark.parametrize("table", [np.asarray, pd.DataFrame])  # as obsm has them
def test_tissue_has_a_panel_for_every_section_at_one_scale(table):
    section, kinds = np.array(["left", "right"])[KINDS % 2], np.array(["T", "B", "NK"])[KINDS % 3]
    figure = embedding.tissue(table(XY), kinds, section)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["left", "right"]
    assert legend_of(figure) == ["B", "NK", "T"]
    colours = {}
    for ax, name in zip(figure.axes, ("left", "right"), strict=True):
        (drawn,) = ax.collections
        places = np.asarray(drawn.get_offsets())
        assert {tuple(place) for place in places.tolist()} == {tuple(place) for place in XY[section == name].tolist()}
        assert ax.get_aspect() == 1
        assert ax.yaxis_inverted()
        kind = {tuple(place): kind for place, kind in zip(XY.tolist(), kinds, strict=True)}
        for place, colour in zip(places.tolist(), drawn.get_facecolors(), strict=True):
            colours.setdefault(kind[tuple(place)], set()).add(to_hex(colour))
    assert {len(used) for used in colours.values()} == {1}  # a type has one colour in all panels


def test_panels_of_tissue_have_the_shape_of_the_tissue():
    """Three sections, twice as wide as high: the figure has no empty bands between them."""
    places = np.array([[0.0, 0.0], [2.0, 1.0]] * 3)
    wide, high = embedding.tissue(places, section=np.repeat(["a", "b", "c"], 2)).get_size_inches()
    assert high / 2 == pytest.approx(3.2 / 2 + 0.2)
    assert wide == pytest.approx(2 * 3.2)


def test_missing_groups_are_a_group_of_their_own():
    ax = embedding.embedding(np.zeros((3, 2)), pd.Categorical(["T", None, "B"]))
    assert legend_of(ax.figure) == ["not known", "B", "T"]


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_latents_has_a_panel_for_every_fit_and_one_legend(count, monkeypatch):
    monkeypatch.setattr(embedding, "projection", lambda z, **_: z[:, :2])
    z = {f"fit {i}": np.random.default_rng(i).normal(size=(20, 3)) for i in range(count)}
    figure = embedding.latents(z, np.arange(20) % 3)
    assert [ax.get_title(loc="left") for ax in figure.axes if ax.axison] == list(z)
    assert len(figure.legends) == 1
    assert all(ax.get_legend() is None for ax in figure.axes)


def test_umap_keeps_neighbours():
    kinds = np.arange(60) % 2
    z = np.random.default_rng(0).normal(size=(60, 5)) + 20 * kinds[:, None]
    xy = embedding.projection(z, seed=1)
    assert xy.shape == (60, 2)
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1) + 1e9 * np.eye(60)
    assert (kinds[distance.argmin(1)] == kinds).all()
    np.testing.assert_array_equal(embedding.projection(z, seed=1), xy)


def test_umap_leaves_generators_and_threads_alone():
    """In a process of its own: it is the first use, which imports and compiles, that draws from them."""
    program = """
import random
import numpy as np, torch
from pyroscvi.report import embedding
random.seed(0), np.random.seed(0), torch.manual_seed(0)
torch.set_num_threads(1)
def draws(): return random.random(), np.random.rand(), torch.rand(1).item()
before = random.getstate(), np.random.get_state(), torch.get_rng_state()
expected = draws()
random.setstate(before[0]), np.random.set_state(before[1]), torch.set_rng_state(before[2])
embedding.projection(np.random.default_rng(0).normal(size=(30, 3)))
print(draws() == expected and torch.get_num_threads() == 1)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["True"], done.stderr


def test_a_few_numbers_that_are_not_whole_have_a_colour_bar():
    ax = embedding.embedding(np.zeros((40, 2)), np.log10(np.arange(40) % 4 + 1.0))
    assert len(ax.child_axes) == 1
    whole = embedding.embedding(np.zeros((40, 2)), np.arange(40) % 4)
    assert not whole.child_axes
