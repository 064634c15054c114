"""Probabilities of components, types and conditions, against quadrature over the state."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pyroscvi.analysis.probabilities import probabilities
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.reader import copied
from pyroscvi.evidence.refined import Refined
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.handlers import intervene
from pyroscvi.models import CVAE, GMVAE, SCVI, Annotated
from pyroscvi.parts import NB, LatentSize, Linear, OneHot, PerBatch, ReadCell

GRID = torch.linspace(-7, 7, 351, dtype=torch.float64)[:, None, None]


@pytest.fixture
def cells(cells):
    """Sixteen of the cells, without their tissue."""
    return replace(cells, graph=None).subset(torch.arange(16))


def untrained(model, guide, cells):
    """A pair whose decoder depends on conditions, and whose guide is untrained."""
    model = model.sized(cells.dims)
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model.eval(), guide.sized(model, cells).eval()


def joint_of(pair, cells):
    model, guide, cells = copied(*pair, cells)
    return Joint(model, guide.sites, cells)


def exact(log_p):
    """Rows that add up to one [n, levels], from log p(x, z, c) on the grid [levels, s, n]."""
    return log_p.logsumexp(1).T.softmax(-1).detach().numpy()


@pytest.mark.parametrize("encoder", [ReadCell(), ReadCell(condition=OneHot("drug"))], ids=["counts", "condition"])
def test_probabilities_of_a_condition_agree_with_quadrature(cells, encoder):
    pair = untrained(CVAE(latent=1, condition=OneHot("drug"), likelihood=NB()), MeanField(encoder=encoder), cells)
    joint, given = joint_of(pair, cells), []
    for level in range(4):
        with intervene(drug=level):
            given.append(joint(GRID.expand(-1, len(cells), -1)))
    by_hand = exact(torch.stack(given))
    result = probabilities(pair, cells, "drug", 5000, proposal=Refined())
    np.testing.assert_allclose(result, by_hand, atol=0.03)
    np.testing.assert_allclose(result.sum(1), 1)
    assert list(result.columns) == ["control", "x", "y", "z"]
    assert by_hand.max(1).mean() > 0.4  # the cells do differ


def test_recorded_values_of_the_field_are_not_used(cells):
    pair = untrained(
        CVAE(latent=1, condition=OneHot("drug")), MeanField(encoder=ReadCell(condition=OneHot("drug"))), cells
    )
    shuffled = replace(cells, categories={**cells.categories, "drug": cells.categories["drug"].roll(1)})
    first, second = (probabilities(pair, some, "drug", 20) for some in (cells, shuffled))
    np.testing.assert_allclose(first, second)


def test_a_field_that_is_read_in_several_places(cells):
    """It is read by the design row, by the size and, outside the plate, by the dispersion."""
    model = SCVI(latent=1, size=LatentSize(), likelihood=NB(dispersion=PerBatch()))
    result = probabilities(untrained(model, MeanField(), cells), cells, "batch", 20)
    assert list(result.columns) == ["a", "b"]
    np.testing.assert_allclose(result.sum(1), 1)


def test_a_prior_weights_the_levels(cells):
    pair = untrained(CVAE(latent=1, condition=OneHot("drug")), MeanField(), cells)
    flat, weights = probabilities(pair, cells, "drug", 20), np.array([0.7, 0.2, 0.1, 0.0])
    weighted = flat * weights
    result = probabilities(pair, cells, "drug", 20, prior=weights)
    np.testing.assert_allclose(result, weighted.div(weighted.sum(1), axis=0))


def test_probabilities_of_types_agree_with_quadrature(cells):
    pair = untrained(Annotated(latent=1, trust=0.8), FullCovariance(), cells)
    by_hand = exact(joint_of(pair, cells).by_level(GRID.expand(-1, len(cells), -1), "y"))
    result = probabilities(pair, cells, "y", 5000, proposal=Refined())
    np.testing.assert_allclose(result, by_hand, atol=0.03)
    assert list(result.columns) == ["B", "NK", "T"]


def test_a_known_label_has_probability_one(cells):
    result = probabilities(untrained(Annotated(latent=1, trust=0.9999), MeanField(), cells), cells, "y", 500).to_numpy()
    has_label = (cells.label >= 0).numpy()
    assert (result[has_label].argmax(1) == cells.label[cells.label >= 0].numpy()).mean() > 0.9
    assert result[has_label].max(1).mean() > result[~has_label].max(1).mean()


def test_probabilities_of_components_agree_with_quadrature(cells):
    pair = untrained(GMVAE(latent=1, kinds=3, decoder=Linear()), MeanField(), cells)
    by_hand = exact(joint_of(pair, cells).by_level(GRID.expand(-1, len(cells), -1), "k"))
    named = replace(cells, names=np.array([f"cell{i}" for i in range(len(cells))]))
    result = probabilities(pair, named, "k", 5000, proposal=Refined())
    np.testing.assert_allclose(result, by_hand, atol=0.03)
    assert list(result.columns) == ["0", "1", "2"]
    assert list(result.index) == list(named.names)


def test_unknown_sites_and_fields_are_refused(cells):
    pair = untrained(GMVAE(latent=1), MeanField(), cells)
    with pytest.raises(KeyError, match="neither enumerates nor reads 'drug': sites k; fields batch"):
        probabilities(pair, cells, "drug")
    with pytest.raises(ValueError, match="'k' has its prior in the model"):
        probabilities(pair, cells, "k", prior=np.ones(8))
