"""A guide that was trained on single cells goes on with their neighbours."""

from dataclasses import replace

import pytest
import torch
from fits import quick
from torch.testing import assert_close

from pyroscvi.guides import FullCovariance, MeanField, SpatialGNN
from pyroscvi.models import SCVI
from pyroscvi.parts import ReadCell


@pytest.fixture
def alone(cells):
    return quick(SCVI(latent=2), FullCovariance(encoder=ReadCell(widths=16)), replace(cells, graph=None))


def test_without_messages_it_is_the_guide_of_the_fit(alone, cells):
    _, guide = alone.with_neighbours(SpatialGNN(), cells)
    with torch.no_grad():
        for parameter in guide.encoder.rounds.parameters():
            parameter.zero_()
    z = torch.randn(60, 2)
    one, two = (g.eval().posteriors(cells)["z"].log_prob(z) for g in (guide, alone.guide))
    assert_close(one, two)
    assert "ReadCell(widths=16)" in repr(guide)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_encoder_stays_while_messages_are_learnt(frozen, alone, cells):
    model, guide = alone.with_neighbours(SpatialGNN(), cells, frozen=frozen)
    f = quick(model, guide, cells, epochs=2)
    before, after = (dict(g.named_parameters()) for g in (guide, f.guide))
    moved = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert "rounds" in moved
    assert ("cell" in moved) is not frozen
    model_moved = any(not torch.equal(p, q) for p, q in zip(model.parameters(), f.model.parameters(), strict=True))
    assert model_moved is not frozen


def test_a_guide_without_neighbours_is_refused(alone, cells):
    with pytest.raises(ValueError, match="reads cells alone and the new one neighbours, too"):
        alone.with_neighbours(MeanField(), cells)
