"""On real cells, a model is not behind one that it contains."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import pyroscvi as ps
from pyroscvi.comparison.nested import nested
from pyroscvi.data.datasets import pbmc68k_reduced
from pyroscvi.evidence.ladder import Ladder
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, ZINB, LatentSize, Poisson

GENES, SEEDS = 150, 2


@pytest.fixture(scope="module")
def fits_and_comparison():
    adata = pbmc68k_reduced()
    x = adata.layers["counts"].toarray()
    variable = np.argsort(-x.var(0) / x.mean(0))[:GENES]
    cells = ps.Fields(counts="counts", label="bulk_labels").read(adata[:, np.sort(variable)].copy())
    train, held_out = cells.split(0.1, by="label", seed=0)
    page = SCVI(latent=5, size=LatentSize())
    declared = {
        "poisson": (replace(page, likelihood=Poisson()), MeanField()),
        "nb": (replace(page, likelihood=NB()), MeanField()),
        "zinb": (replace(page, likelihood=ZINB()), MeanField()),
        "nb, covariance": (replace(page, likelihood=NB()), FullCovariance()),
    }
    fits = ps.sweep(declared, train, seeds=SEEDS, epochs=40, batch_size=64, compile="trace", progress=False)
    # The mean over 70 cells is then known to 0.03 nats.
    return fits, ps.compare(fits, held_out, estimator=Ladder(tolerance=0.2), progress=False)


def test_the_larger_model_is_behind_by_no_more_than_two_standard_errors(fits_and_comparison):
    fits, comparison = fits_and_comparison
    log_evidence, seed_sd = comparison.by_cell["log_evidence"], comparison.table["seed_sd"]
    pairs = nested(fits)
    assert {("nb", "poisson"), ("zinb", "nb"), ("zinb", "poisson"), ("nb, covariance", "nb")} <= {*pairs}
    for larger, smaller in pairs:
        ahead = log_evidence[larger] - log_evidence[smaller]
        se = np.sqrt(ahead.var() / len(ahead) + (seed_sd[larger] ** 2 + seed_sd[smaller] ** 2) / SEEDS)
        assert ahead.mean() > -2 * se, (larger, smaller, ahead.mean(), se)
        assert se < 1.5, (larger, smaller, se)


def test_a_full_covariance_starts_as_a_mean_field(cells):
    model = SCVI(latent=3, size=LatentSize()).sized(cells.dims)
    factor = FullCovariance().sized(model, cells).posteriors(cells)["z"].scale_tril
    assert torch.equal(factor, factor.diagonal(dim1=-2, dim2=-1).diag_embed())


def test_overdispersed_counts_are_no_poisson(fits_and_comparison):
    _, comparison = fits_and_comparison
    assert comparison.table["evidence"]["nb"] > comparison.table["evidence"]["poisson"] + 1
