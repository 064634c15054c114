"""Sparse counts read as they are stored; latents and data multiplied each at its own size: never other values."""

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn
from torch.nn.functional import linear
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.data.csr import CSR
from pyroscvi.data.graph import nearest
from pyroscvi.guides import MeanField
from pyroscvi.handlers import unknown
from pyroscvi.inference.elbo import negative_elbo
from pyroscvi.models import SCVI
from pyroscvi.parts import (
    MLP,
    NB,
    BatchNorm,
    Continuous,
    Counts,
    Embedding,
    Features,
    LogShare,
    OneHot,
    ReadCell,
    layers,
)
from pyroscvi.parts.layers import affine, beside
from pyroscvi.parts.neighbours import ReadNeighbours


@pytest.fixture
def sparse_cells():
    """Fifty cells on a tissue, 40 genes, nine counts in ten zero; one cell without any."""
    r = np.random.default_rng(0)
    counts = r.poisson(30, (50, 40)) * (r.random((50, 40)) < 0.1)
    counts[7] = 0
    return Cells(
        sparse.csr_matrix(counts, dtype=np.float32),
        {"batch": torch.arange(50) % 2},
        torch.randn(50, 2),
        graph=nearest(r.random((50, 2)), neighbours=4),
        levels={"batch": ("a", "b")},
    )


class Root(Features):
    """sqrt(x): said of dense counts alone."""

    def forward(self, x):
        return x.sqrt()


CONDITION = OneHot("batch") + Continuous()
ENCODERS = [
    ReadCell(),
    ReadCell(features=LogShare()),
    ReadCell(features=Counts()),
    ReadCell(condition=CONDITION),
    ReadCell(condition=Embedding("batch", 3), features=LogShare()),
    ReadCell(widths=(32, 16), condition=CONDITION),
    ReadCell(widths=(32, 16), condition=CONDITION, everywhere=True),
    ReadCell(norm=BatchNorm()),
    ReadNeighbours(cell=ReadCell(condition=CONDITION), hops=2),
]


@pytest.mark.parametrize("encoder", ENCODERS, ids=repr)
def test_sparse_counts_are_read_as_dense_ones_are(encoder, sparse_cells):
    encoder = encoder.sized(sparse_cells.dims).eval()
    minibatch = sparse_cells.take(torch.arange(3, 40, 2), hops=encoder.hops)
    dense = encoder(minibatch)
    assert dense.requires_grad
    again = sparse_cells.take(torch.arange(3, 40, 2), hops=encoder.hops)
    with torch.no_grad():
        h = encoder(again)
    assert "x" not in vars(again.with_halo if encoder.hops else again)  # never made dense
    assert_close(h, dense.detach(), atol=1e-5, rtol=1e-5)


def test_latents_of_sparse_cells_are_those_of_dense_ones(sparse_cells):
    fit = ps.fit(SCVI(), MeanField(), sparse_cells, epochs=2, progress=False)
    dense = Cells(torch.from_numpy(sparse_cells.counts.toarray()), sparse_cells.categories, levels=sparse_cells.levels)
    assert dense.csr is None
    result = fit.latent(sparse_cells, batch_size=16)
    np.testing.assert_allclose(result, fit.latent(dense), atol=1e-5)
    np.testing.assert_allclose(result, fit.latent(sparse_cells), atol=1e-6)


def test_features_without_a_sparse_method_get_dense_counts(sparse_cells):
    encoder = ReadCell(features=Root()).sized(sparse_cells.dims).eval()
    with torch.no_grad():
        result = encoder(sparse_cells)
    assert_close(result, encoder(sparse_cells).detach())


def test_counts_are_read_as_they_are_stored_where_that_is_quicker(sparse_cells):
    assert sparse_cells.csr is not None
    assert sparse_cells.to(dtype=torch.float64).csr is None
    assert Cells(sparse.csr_matrix(np.ones((5, 4), np.float32))).csr is None


def test_csr_products(sparse_cells):
    matrix, weight = sparse_cells.counts, torch.randn(6, 40)
    x = torch.from_numpy(matrix.toarray())
    counts = CSR.of(matrix)
    assert_close(counts.linear(weight), linear(x, weight))
    assert_close(counts.totals(), x.sum(-1).repeat_interleave((x > 0).sum(-1)))
    nothing = CSR.of(sparse.csr_matrix((3, 40), dtype=np.float32))
    assert_close(nothing.linear(weight), torch.zeros(3, 6))


def test_a_count_that_is_stored_in_two_pieces():
    twice = sparse.csr_matrix(
        (np.array([1.0, 2.0, 5.0], np.float32), np.array([1, 1, 30]), np.array([0, 3, 3])), shape=(2, 40)
    )
    cells = Cells(twice)
    encoder = ReadCell().sized(cells.dims).eval()
    with torch.no_grad():
        assert_close(encoder(cells), encoder.layers(cells.x.log1p(), torch.zeros(2, 0)))
    assert twice.nnz == 3  # what the user holds is left as it is


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("of_h", "of_d"),
    [((5,), (5,)), ((4, 5), (5,)), ((5,), (3, 1, 1)), ((4, 5), (3, 1, 1)), ((3, 1, 5), (3, 1, 5)), ((1, 5), (4, 1))],
)
def test_side_by_side_inputs_are_multiplied_without_being_expanded(of_h, of_d, bias):
    layer = nn.Linear(9, 7, bias)
    h, d = torch.randn(*of_h, 6, requires_grad=True), torch.randn(*of_d, 3, requires_grad=True)
    whole, parts = layer(beside(h, d)), affine(layer, h, d)
    assert_close(parts, whole, atol=1e-6, rtol=1e-6)
    inputs = [h, d, *layer.parameters()]
    weights = torch.randn(whole.shape)
    for one, other in zip(
        torch.autograd.grad((parts * weights).sum(), inputs),
        torch.autograd.grad((whole * weights).sum(), inputs),
        strict=True,
    ):
        assert_close(one, other, atol=1e-5, rtol=1e-5)
    nothing = torch.randn(*of_d, 0)
    plain = nn.Linear(6, 7, bias)
    assert_close(affine(plain, h, nothing), plain(beside(h, nothing)))


def test_a_level_is_multiplied_without_the_latents():
    """Of a hundred levels the latents' part of the product is taken once."""
    layer = nn.Linear(9, 7)
    h, d = torch.randn(5, 6), torch.randn(100, 1, 3)
    with FlopCounterMode(display=False) as counter:
        affine(layer, h, d)
    assert counter.get_total_flops() == 2 * 7 * (5 * 6 + 100 * 3)


def test_an_enumerated_page_agrees_with_and_without_concatenated_inputs(cells, monkeypatch):
    page = SCVI(condition=OneHot("drug"), decoder=MLP(widths=(16, 16), everywhere=True), likelihood=NB())
    model = page.sized(cells.dims)
    guide = MeanField().sized(model, cells).eval()

    def loss_and_slopes():
        torch.manual_seed(0)
        with unknown("drug", torch.zeros(4)):
            loss = negative_elbo(model, guide, cells)
        return [loss.detach(), *torch.autograd.grad(loss, [*model.parameters()])]

    apart = loss_and_slopes()
    monkeypatch.setattr(layers, "affine", lambda layer, h, d: layer(beside(h, d)))
    for one, other in zip(apart, loss_and_slopes(), strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-6 * other.abs().max().item())
