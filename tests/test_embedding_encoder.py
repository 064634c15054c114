"""Guides that read an embedding of the cell by another model."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from fits import quick
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import ReadCell, ReadEmbedding
from pyroscvi.parts.neighbours import MeanAggregation, ReadNeighbours


@pytest.fixture
def adata(cells):
    obs = pd.DataFrame(index=[f"c{i}" for i in range(60)])
    table = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    return anndata.AnnData(cells.x.numpy(), obs, pd.DataFrame(index=list(cells.genes)), obsm={"X_other": table})


@pytest.mark.parametrize("counts", [None, ReadCell(widths=8)], ids=repr)
def test_a_fit_reads_the_embedding_and_comes_back(counts, adata, tmp_path):
    cells = ps.Fields(embedding="X_other").read(adata)
    encoder = ReadEmbedding(widths=8) if counts is None else ReadEmbedding(widths=8, counts=counts)
    f = quick(SCVI(latent=2), MeanField(encoder), cells)
    f.save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit")
    np.testing.assert_array_equal(again.latent(adata), f.latent(cells))
    moved = replace(cells, embedding=cells.embedding.flip(0))
    assert np.abs(f.latent(moved) - f.latent(cells)).max() > 1e-4
    other = replace(cells, counts=cells.counts.flip(0))
    assert (np.abs(f.latent(other) - f.latent(cells)).max() > 1e-4) == (counts is not None)
    assert np.isfinite(ps.log_evidence(f, cells.subset(torch.arange(4)), particles=10)).all()
    assert f.generate(n=3).shape == (3, 12)


def test_log_counts_as_the_embedding_are_the_encoder_of_counts(cells):
    cells = replace(cells, embedding=cells.x.log1p(), graph=None)
    model = SCVI(latent=2).sized(cells.dims)
    one, two = (MeanField(e).sized(model, cells).eval() for e in (ReadCell(widths=8), ReadEmbedding(widths=8)))
    two.load_state_dict(one.state_dict())
    z = torch.randn(60, 2)
    assert_close(one.posteriors(cells)["z"].log_prob(z), two.posteriors(cells)["z"].log_prob(z))


def test_an_embedding_that_is_not_there_is_named(adata):
    cells = ps.Fields().read(adata)
    with pytest.raises(ValueError, match=r"no embedding was read: name its key of obsm, Fields\(embedding=...\)"):
        quick(SCVI(latent=2), MeanField(ReadEmbedding()), cells)
    f = quick(SCVI(latent=2), MeanField(ReadEmbedding(widths=4)), ps.Fields(embedding="X_other").read(adata))
    with pytest.raises(ValueError, match="these cells have no embedding"):
        f.latent(replace(cells, embedding=None))
    with pytest.raises(ValueError, match="which simulated cells do not have"):
        f.calibrate(adata)
    with pytest.raises(KeyError, match="obsm has no 'X_pca'"):
        ps.Fields(embedding="X_pca").read(adata)
    adata.obsm["X_other"][3, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        ps.Fields(embedding="X_other").read(adata)


def test_a_graph_network_reads_embeddings_of_a_cell_and_of_its_neighbours(cells, tmp_path):
    cells = replace(cells, embedding=torch.randn(60, 5))
    reader = ReadNeighbours(cell=ReadEmbedding(widths=8), convolution=MeanAggregation())
    f = quick(SCVI(latent=2), MeanField(reader), cells)
    f.save(tmp_path / "fit")
    z = f.latent(cells)
    np.testing.assert_array_equal(ps.load(tmp_path / "fit").latent(cells), z)
    np.testing.assert_array_equal(f.latent(replace(cells, counts=cells.counts.flip(0))), z)
    moved = cells.embedding.clone()
    moved[cells.graph.indices[0]] += 1  # a neighbour of the first cell
    assert np.abs(f.latent(replace(cells, embedding=moved)) - z)[0].max() > 1e-4
    with pytest.raises(ValueError, match="which simulated cells do not have"):
        f.calibrate(cells)
    with pytest.raises(ValueError, match="cell reads each cell alone, not ReadNeighbours"):
        MeanField(ReadNeighbours(cell=ReadNeighbours())).sized(f.model, cells)
