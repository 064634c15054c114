"""Moments of sizes that are set by hand."""

import pytest
import torch
from pyro import poutine

from pyroscvi.models import LDVAE
from pyroscvi.parts import LatentSize


def test_moments_of_the_cells_set_by_hand_change_nothing(cells):
    moments = cells.dims.log_size
    ours = LatentSize(log_mean=tuple(moments[:, 0].tolist()), log_sd=tuple(moments[:, 1].sqrt().tolist()))
    by_hand, of_cells = ours.sized(cells.dims), LatentSize().sized(cells.dims)
    assert torch.equal(by_hand.m, of_cells.m)
    assert torch.allclose(by_hand.s, of_cells.s)


def test_one_number_is_for_every_batch(cells):
    model = LDVAE(latent=2, size=LatentSize(log_mean=5.0, log_sd=0.01)).sized(cells.dims)
    l = poutine.trace(model).get_trace(cells).nodes["l"]["value"]
    assert ((l.log() - 5).abs() < 0.06).all()


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (LatentSize(log_mean=(1.0, 2.0, 3.0)), "log_mean has 3 numbers for 2 batches"),
        (LatentSize(log_sd=0.0), "log_sd positive"),
        (LatentSize(log_mean=float("nan")), "log_mean must be finite"),
    ],
    ids=repr,
)
def test_moments_that_cannot_be_are_refused(size, words, cells):
    with pytest.raises(ValueError, match=words):
        size.sized(cells.dims)
