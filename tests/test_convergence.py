"""Whether a fit had converged when its training ended, by its history."""

import numpy as np
import pandas as pd
import pytest
from fits import quick

from pyroscvi.data.datasets import simulated
from pyroscvi.data.fields import Fields
from pyroscvi.fitting.result import Fit
from pyroscvi.guides import MeanField
from pyroscvi.inference.convergence import gain, has_converged
from pyroscvi.models import SCVI
from pyroscvi.parts import MLP, NB, ReadCell

EPOCHS = np.arange(100)


def falling(epochs, time):
    """Learning rates along half a cosine, and a bound that rises exponentially in their sum."""
    rate = (1 + np.cos(np.pi * np.arange(epochs) / epochs)) / 2
    return -500 - 50 * np.exp(-np.cumsum(rate) / time), rate


def test_a_bound_that_rises_by_a_straight_line():
    assert gain(-500 + 0.1 * EPOCHS) == pytest.approx(2.0)
    assert gain(-500 + 0.1 * EPOCHS[:50]) == pytest.approx(1.0)


def test_a_flat_end_at_a_small_rate_is_not_convergence():
    (short, short_rate), (long, long_rate) = falling(50, time=20), falling(200, time=20)
    assert short[-1] - short[-6] < 0.2  # the last tenth is flat
    assert has_converged(short) is True  # as if the rate had been high there
    assert has_converged(short, short_rate) is False
    assert has_converged(long, long_rate) is True


def test_a_bound_that_falls_again_has_converged():
    assert has_converged(-500 - 0.01 * (EPOCHS - 40.0) ** 2)


def test_noise_is_not_an_improvement():
    rng = np.random.default_rng(0)
    assert sum(has_converged(rng.normal(-500, 5, 100)) for _ in range(50)) >= 45


def test_it_cannot_be_known_without_a_history():
    assert has_converged([-1.0]) is None
    assert Fit(None, None, None, None, pd.DataFrame()).converged is None


def test_a_fit_that_stopped_early_has_converged():
    rising = pd.DataFrame({"elbo_train": 10.0 * EPOCHS, "elbo_held_out": 10.0 * EPOCHS})
    assert Fit(None, None, None, None, rising, {"stopped_early": False}).converged is False
    assert Fit(None, None, None, None, rising, {"stopped_early": True}).converged is True


def test_without_held_out_cells_the_training_bound_decides():
    history = pd.DataFrame({"elbo_train": 10.0 * EPOCHS, "elbo_held_out": np.nan})
    assert Fit(None, None, None, None, history).converged is False
    history["elbo_train"] = -500 + 0.1 * EPOCHS  # slowly: that may be overfitting
    assert Fit(None, None, None, None, history).converged is True
    history["elbo_held_out"] = -500.0
    assert Fit(None, None, None, None, history).converged is True


def test_two_real_fits_one_of_them_too_short():
    cells = Fields(counts="counts").read(simulated(cells=200, genes=300, seed=0))
    model, guide = SCVI(latent=2, decoder=MLP(8), likelihood=NB()), MeanField(encoder=ReadCell(widths=8))
    how = {"lr": 0.05, "batch_size": 90, "validation": 0.1}
    short, long = (quick(model, guide, cells, epochs=n, **how) for n in (20, 100))
    assert short.converged is False
    assert long.converged is True
    assert long.history["elbo_held_out"].iloc[-1] > short.history["elbo_held_out"].iloc[-1] + 1.5
    assert (short.history["lr"] > 0).all()
