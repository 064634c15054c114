"""Encoders that read neighbours: what they must not depend on, and what they are without edges."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pyroscvi.data import Fields, Nearest, simulated
from pyroscvi.guides import FullCovariance, SpatialGNN
from pyroscvi.models import SCVI
from pyroscvi.parts.neighbours import Attention, Equivariant, MeanAggregation, ReadNeighbours

CHOICES = [MeanAggregation(), Attention(), Equivariant()]
TURN = np.array([[np.cos(1.1), -np.sin(1.1)], [np.sin(1.1), np.cos(1.1)]])
MOVES = {
    "turned": lambda s: s @ TURN,
    "mirrored": lambda s: s * [-1, 1],
    "shifted": lambda s: s + np.array([70.0, -30.0]),
}
DATA = simulated(cells=40, genes=8, sections=1)


def read(move=lambda s: s, order=slice(None)):
    data = DATA[order].copy()
    data.obsm["spatial"] = move(data.obsm["spatial"])
    return Fields(spatial="spatial", graph=Nearest(5)).read(data)


def guide(convolution, hops=2):
    torch.manual_seed(0)
    cells = read()
    encoder = ReadNeighbours(convolution=convolution, hops=hops)
    return SpatialGNN(encoder=encoder).sized(SCVI(latent=3).sized(cells.dims), cells).eval()


@torch.no_grad()
def posterior(guide, cells):
    q = guide.posteriors(cells)["z"]
    return torch.cat([q.mean, q.covariance_matrix.flatten(1)], -1)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("convolution", CHOICES)
def test_a_tissue_that_is_turned_mirrored_or_shifted_has_the_same_posteriors(convolution, move):
    g = guide(convolution)
    assert_close(posterior(g, read(MOVES[move])), posterior(g, read()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("convolution", CHOICES)
def test_posteriors_follow_the_cells_into_another_order(convolution):
    g, order = guide(convolution), np.random.default_rng(0).permutation(40)
    assert_close(posterior(g, read(order=order)), posterior(g, read())[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("convolution", CHOICES)
def test_without_edges_it_is_the_guide_that_reads_single_cells(convolution):
    g, cells = guide(convolution), read()
    alone = FullCovariance().sized(SCVI(latent=3).sized(cells.dims), cells).eval()
    alone.encoder.load_state_dict(g.encoder.cell.state_dict())
    alone.heads.load_state_dict(g.heads.state_dict())
    without = replace(cells, graph=None)
    assert_close(posterior(g, without), posterior(alone, cells), rtol=1e-5, atol=1e-5)
    assert (posterior(g, cells) - posterior(alone, cells)).abs().max() > 1e-3


@pytest.mark.parametrize("convolution", CHOICES)
def test_a_minibatch_is_read_as_the_whole_tissue(convolution):
    g, cells = guide(convolution), read()
    assert_close(posterior(g, cells.take([3, 30, 8], hops=2)), posterior(g, cells)[[3, 30, 8]], rtol=1e-5, atol=1e-5)


def test_directions_turn_with_the_tissue_and_are_read():
    layer = Equivariant().sized(8).messages
    h, cells, turned = torch.randn(40, 8), read(), read(MOVES["turned"])
    (_, usual), (_, other) = (layer(h, c.edges, c.distances.unsqueeze(-1), c.vectors) for c in (cells, turned))
    assert_close(other, usual @ torch.from_numpy(TURN).to(usual), rtol=1e-4, atol=1e-5)
    assert (other - usual).abs().max() > 1e-2
    g, places = guide(Equivariant()), cells.places.clone()
    places[0] += 0.5  # the same graph and distances, but another direction
    assert (posterior(g, replace(cells, places=places)) - posterior(g, cells)).abs().max() > 1e-4


def test_directions_need_coordinates():
    with pytest.raises(ValueError, match=r"Equivariant\(\) reads where neighbours lie: .*Fields\(spatial=\.\.\.\)"):
        posterior(guide(Equivariant()), replace(read(), places=None))
