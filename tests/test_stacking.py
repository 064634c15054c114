"""Stacking weights: against brute force, against arviz, and against what characterises a maximum."""

import numpy as np
import pytest
from scipy.special import logsumexp

from pyroscvi.comparison.stacking import stacking_weights


def score(log_p, w):
    return logsumexp(log_p, axis=1, b=w).mean()


@pytest.fixture
def log_p():
    """500 cells under three models, of which each is the best somewhere."""
    rng = np.random.default_rng(0)
    return -100 + rng.normal(size=(500, 3)) * [1.0, 2.0, 0.5] + [0.0, -1.0, 0.3]


def test_two_models_as_by_brute_force(log_p):
    two = log_p[:, :2]
    grid = np.linspace(1e-6, 1 - 1e-6, 20_001)
    best = grid[np.argmax([score(two, [w, 1 - w]) for w in grid])]
    np.testing.assert_allclose(stacking_weights(two), [best, 1 - best], atol=1e-4)


def test_no_change_of_the_weights_improves_the_mixture(log_p):
    """The conditions of Karush, Kuhn and Tucker, by which a maximum of a concave function is known."""
    w = stacking_weights(log_p)
    assert w.sum() == pytest.approx(1)
    assert (w >= 0).all()
    slope = np.exp(log_p - logsumexp(log_p, axis=1, b=w)[:, None]).mean(0)
    assert (slope <= 1 + 1e-4).all()
    np.testing.assert_allclose(slope[w > 0], 1, atol=1e-4)
    for others in np.random.default_rng(1).dirichlet(np.ones(3), size=200):
        assert score(log_p, w) >= score(log_p, others)


def test_weights_of_models_with_very_different_evidence():
    """Cells a thousand nats apart: neither a zero nor an infinity comes of it."""
    log_p = np.array([[0.0, -1000.0], [-1000.0, 0.0], [-1000.0, 0.0], [-1000.0, 0.0]])
    np.testing.assert_allclose(stacking_weights(log_p), [0.25, 0.75], atol=1e-6)
    np.testing.assert_allclose(stacking_weights(log_p[1:]), [0, 1], atol=1e-6)


def test_a_model_that_is_worse_for_every_cell_has_no_weight(log_p):
    worse = np.column_stack([log_p[:, 0], log_p[:, 0] - 0.5])
    np.testing.assert_array_equal(stacking_weights(worse), [1, 0])


def test_one_model_has_all_the_weight():
    np.testing.assert_array_equal(stacking_weights(np.zeros((5, 1))), [1])


def test_what_cannot_be_stacked():
    with pytest.raises(ValueError, match=r"every cell under every model \[n, k\], not \(3,\)"):
        stacking_weights(np.zeros(3))
    with pytest.raises(ValueError, match="impossible under one of the models"):
        stacking_weights(np.array([[0.0, -np.inf]]))
