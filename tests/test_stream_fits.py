"""Fits from disk are the fits from memory."""

import numpy as np
import pandas as pd
import pytest
import test_stream
import torch
from anndata import AnnData
from scipy import sparse
from test_stream import FIELDS, on_disk

import pyroscvi as ps
from pyroscvi.data import Fields, loader, simulated
from pyroscvi.fitting.resume import digest
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI

adata = test_stream.adata


def test_a_fit_from_disk_is_the_fit_from_memory_when_the_order_is(adata, tmp_path, monkeypatch):
    monkeypatch.setattr(
        loader, "shuffled", lambda n, *sizes_and_generator: torch.randperm(n, generator=sizes_and_generator[-1])
    )
    options = {"epochs": 2, "batch_size": 32, "progress": False, "device": "cpu"}
    model, guide = SCVI(latent=2), MeanField()
    disk, memory = (ps.fit(model, guide, c, **options) for c in (on_disk(adata, tmp_path), FIELDS.read(adata)))
    columns = ["loss", "elbo_train", "elbo_held_out"]
    pd.testing.assert_frame_equal(disk.history[columns], memory.history[columns], check_exact=True)
    for name, value in memory.guide.state_dict().items():
        assert torch.equal(value, disk.guide.state_dict()[name]), name


def test_methods_of_a_fit_take_cells_on_disk(adata, tmp_path):
    cells, memory = on_disk(adata, tmp_path), FIELDS.read(adata)
    fit = ps.fit(SCVI(latent=2), MeanField(), cells, epochs=2, validation=0.1, progress=False, device="cpu")
    assert fit.record["cells"] == {"train": 182, "held_out": 21}
    np.testing.assert_array_equal(fit.latent(cells), fit.latent(memory))
    np.testing.assert_array_equal(fit.denoise(cells), fit.denoise(memory))
    options = {"particles": 5}
    np.testing.assert_array_equal(fit.log_evidence(cells, **options), fit.log_evidence(memory, **options))
    table = ps.compare({"a": fit, "b": fit}, cells, particles=5).table
    assert len(table) == 2


def test_a_block_shuffled_fit_learns_as_well(tmp_path):
    adata = simulated(cells=600, genes=30, seed=2)
    adata = adata[np.argsort(adata.obs["cell_type"].to_numpy(), kind="stable")].copy()  # the worst possible order
    options = {"epochs": 15, "batch_size": 32, "validation": 0.1, "progress": False, "device": "cpu"}
    bounds = [
        ps.fit(SCVI(latent=2), MeanField(), cells, **options).history["elbo_held_out"].iloc[-1]
        for cells in (on_disk(adata, tmp_path, Fields()), Fields().read(adata))
    ]
    assert bounds[0] == pytest.approx(bounds[1], abs=1.0)


def test_a_fit_from_disk_is_resumed_in_the_middle_of_an_epoch(adata, tmp_path):
    cells = on_disk(adata, tmp_path)
    options = {"epochs": 3, "batch_size": 16, "progress": False, "device": "cpu"}
    seen = []

    class Stop:
        def __init__(self, after: int):
            self.after, self.__qualname__ = after, "Stop"

        def __call__(self, model, guide, minibatch):
            seen.append(minibatch.index.tolist())
            if len(seen) == self.after:
                raise KeyboardInterrupt
            return minibatch.x.sum(1) * 0

    whole = ps.fit(SCVI(latent=2), MeanField(), cells, objectives=[Stop(-1)], **options)
    wanted = list(seen)
    seen.clear()
    folder = ps.fitting.resume.Folder(tmp_path / "run", seconds=0)
    with pytest.warns(UserWarning, match="interrupted in epoch 2"):
        ps.fit(SCVI(latent=2), MeanField(), cells, objectives=[Stop(18)], folder=folder, **options)
    assert seen == wanted[:18]
    seen.pop()  # which was interrupted
    again = ps.fit(SCVI(latent=2), MeanField(), cells, objectives=[Stop(-1)], folder=folder, **options)
    assert seen == wanted
    for name, value in whole.guide.state_dict().items():
        assert torch.equal(value, again.guide.state_dict()[name]), name


def test_counts_on_disk_that_changed_are_other_cells(tmp_path):
    """Also if the totals of all cells and genes are the same."""
    path, digests = tmp_path / "cells.h5ad", []
    for counts in ([[1, 2], [2, 1]], [[2, 1], [1, 2]]):
        AnnData(sparse.csr_matrix(np.array(counts, dtype=np.float32))).write_h5ad(path)
        digests.append(digest(Fields().open(path)))
    assert digests[0] != digests[1]
