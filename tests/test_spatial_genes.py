"""Genes that vary in space: exact moments, true error rates, and power."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import sparse

from pyroscvi.analysis.spatial_genes import _moran, spatial_genes
from pyroscvi.data import Cells
from pyroscvi.data.graph import nearest


def tissue(n=400, genes=400, varying=0, seed=0):
    """Cells of two sections with different means; the first genes have a gradient over each section."""
    rng = np.random.default_rng(seed)
    place, section = rng.uniform(0, 10, (n, 2)), np.arange(n) % 2
    rate = np.exp(rng.normal(0, 1, genes)) * np.where(section[:, None] == 1, rng.uniform(0.5, 2, genes), 1)
    sign = np.where(np.arange(varying) % 2, 1, -1)  # totals stay the same: what is tested are shares
    rate[:, :varying] *= np.exp(0.1 * sign * (place[:, :1] - 5))
    names = tuple(f"gene{g}" for g in range(genes))
    counts = torch.from_numpy(rng.poisson(rate)).float()
    return Cells(counts, graph=nearest(place, 6, section), genes=names)


def test_mean_and_variance_are_those_over_all_orders_of_the_cells():
    rng = np.random.default_rng(0)
    W = sparse.csr_matrix(rng.random((6, 6)) < 0.4, dtype=float)
    W.setdiag(0)
    W.eliminate_zeros()
    y = rng.gamma(1, size=6)
    y -= y.mean()
    orders = y[np.array(list(permutations(range(6))))]
    every = 6 * np.einsum("pi,ij,pj->p", orders, W.toarray(), orders) / (y**2).sum()
    found = _moran(y[:, None], W)
    np.testing.assert_allclose([m[0] for m in found], [every[0], every.mean(), every.var()])


def test_without_a_pattern_few_genes_are_called_also_where_sections_differ():
    table = spatial_genes(tissue())
    assert 0.02 < (table.p_value < 0.05).mean() < 0.085  # 400 genes: 0.05 within 3.2 standard errors
    assert (table.q_value < 0.1).sum() <= 1


def test_genes_with_a_gradient_are_found_at_the_stated_false_discovery_rate():
    called = [spatial_genes(tissue(varying=100, seed=seed)).query("q_value < 0.1").index for seed in range(3)]
    wrong = [np.mean([int(gene[4:]) >= 100 for gene in genes]) for genes in called]
    assert np.mean(wrong) < 0.13
    assert min(map(len, called)) > 50


def test_a_gene_that_does_not_vary_is_not_called_and_cells_need_neighbours():
    cells = tissue(60, 4)
    counts = cells.counts.clone()
    counts[:, 1] = 0
    row = spatial_genes(replace(cells, counts=counts)).loc["gene1"]
    assert (row.I, row.p_value) == (0, 1)
    with pytest.raises(ValueError, match=r"no neighbours: .*Fields\(spatial"):
        spatial_genes(replace(cells, graph=None))
