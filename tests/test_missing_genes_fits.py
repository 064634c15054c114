"""Fits of cells in which some genes were not measured: training, guides, latents, and what is done with a fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import moved, quick
from missing import GENES, MEASURED, counts, page, without
from pyro import poutine
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.data import Fields, simulated
from pyroscvi.data.cells import Cells
from pyroscvi.evidence import Importance
from pyroscvi.guides import Flow, MeanField, SpatialGNN
from pyroscvi.inference.evaluation import evaluate
from pyroscvi.models import Annotated, LatentTree
from pyroscvi.parts import (
    LatentSize,
    Mixture,
    ObservedSize,
    Size,
    SizeFactor,
    VampPrior,
)
from pyroscvi.parts.clusters import clustered_shares
from pyroscvi.program import centre


@pytest.mark.parametrize("size", [ObservedSize(), LatentSize()], ids=repr)
def test_a_fit_learns_from_cells_of_several_panels(size: Size):
    x = counts(60)
    panels, panel = torch.stack([torch.ones(GENES, dtype=torch.bool), MEASURED]), torch.arange(60) % 2
    part = replace(x, counts=x.counts * panels[panel], panels=panels, panel=panel).to(dtype=torch.float32)
    f = quick(page(size=size), MeanField(), part, epochs=20)
    assert np.isfinite(f.history["loss"]).all()
    rates = f.denoise(part)
    assert (rates[:, ~MEASURED] > 0.1).all()
    assert abs(np.log(rates[1::2].sum(1).mean() / rates[::2].sum(1).mean())) < 0.2


@pytest.mark.parametrize("guide", [MeanField(), Flow()], ids=repr)
@pytest.mark.parametrize("name", ["scvi", "annotated", "gmvae", "ppca", "ldvae"])
def test_a_guide_fills_in_what_the_model_expects_for_a_panel_that_training_did_not_have(name, guide):
    """Twice: latents, the counts that follow from them, the latents of the filled-in cells. Other cells stay."""
    cells = counts()
    _, guide = moved(ps.create(name), guide, cells)
    whole, part = guide.from_counts(cells), without(cells)
    assert torch.equal(centre(guide.posteriors(cells)["z"]), centre(whole["z"]))
    q = guide.from_counts(part)
    for _ in range(2):
        expected = guide._expected(part, q)
        assert expected.shape == part.x.shape
        q = guide.from_counts(replace(part, counts=torch.where(MEASURED, part.x, expected)))
    assert_close(centre(guide.posteriors(part)["z"]), centre(q["z"]))
    assert not torch.allclose(centre(guide.from_counts(part)["z"]), centre(q["z"]))
    guide.panels = torch.cat([guide.panels, MEASURED[None]])
    assert torch.equal(centre(guide.posteriors(part)["z"]), centre(guide.from_counts(part)["z"]))


def test_expected_counts_are_those_at_the_mean_of_the_guide_with_discrete_sites_summed_over():
    cells = without(counts())
    model, guide = moved(Annotated(latent=2), MeanField(), cells)
    q = guide.from_counts(cells)
    types = []
    for y in range(3):
        values = {"z": q["z"].mean, "y": torch.full((len(cells),), y)}
        trace = poutine.trace(poutine.condition(model, values)).get_trace(cells)
        trace.compute_log_prob()
        log_p = sum(trace.nodes[site]["log_prob"] for site in ("y", "label", "z", "x"))
        types.append((log_p, trace.nodes["x"]["fn"].mean))
    weights = torch.stack([log_p for log_p, _ in types]).softmax(0)
    expected = sum(w.unsqueeze(-1) * mean for w, (_, mean) in zip(weights, types, strict=True))
    assert_close(guide._expected(cells, q), expected)


def test_the_guide_of_a_loaded_fit_knows_the_panels_of_training(tmp_path):
    cells = counts(40).to(dtype=torch.float32)
    panels, panel = torch.stack([torch.ones(GENES, dtype=torch.bool), MEASURED]), torch.arange(40) % 2
    part = replace(cells, counts=cells.counts * panels[panel], panels=panels, panel=panel)
    f = quick(page(latent=2), MeanField(), part)
    f.save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit")
    assert torch.equal(again.guide.panels, f.guide.panels)
    assert MEASURED.tolist() in again.guide.panels.tolist()
    np.testing.assert_array_equal(again.latent(part), f.latent(part))
    np.testing.assert_array_equal(f.latent(part), f.guide.from_counts(part)["z"].mean.detach())


def test_an_adapted_fit_has_the_same_model_and_a_guide_closer_to_its_posteriors(tmp_path):
    cells = Cells(torch.poisson(torch.rand(3, GENES)[torch.arange(90) % 3] * 10))
    f = quick(page(latent=2, prior=Mixture(components=2)), MeanField(), cells, epochs=30)
    part = without(cells)
    new = f.adapted(part, epochs=40, progress=False)
    before, after = f.model.state_dict(), new.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in new.model.parameters())
    elbo = [evaluate(one.model, one.guide, part, len(part), seed=0) for one in (f, new)]
    assert elbo[1] > elbo[0] + 0.05
    new.save(tmp_path / "fit")
    np.testing.assert_array_equal(ps.load(tmp_path / "fit").latent(part), new.latent(part))
    np.testing.assert_array_equal(new.latent(part), new.guide.from_counts(part)["z"].mean.detach())
    assert torch.equal(new.dims.profile, f.dims.profile)


def test_checks_of_posteriors_and_predictions_are_of_measured_genes():
    cells = Cells(torch.poisson(torch.rand(3, GENES)[torch.arange(60) % 3] * 10))
    f = quick(page(latent=2), MeanField(), cells, epochs=20)
    part = without(cells)
    check = f.predictive_check(part, replicates=5, simulations=1)
    for one in (check.data, check.simulated[0]):
        assert (one["zeros per gene"].of_replicates[:, ~MEASURED] == 1).all()
        assert (one["zeros per gene"].of_data[~MEASURED] == 1).all()
        assert (one["mean of a gene"].of_replicates[:, MEASURED] > 0).all()
    assert f.calibrate(part, 100, draws=19, candidates=400).corrected.passes


def test_a_fit_whose_prior_is_made_of_the_guide_is_not_adapted():
    cells = counts(20).to(dtype=torch.float32)
    f = quick(page(latent=2, prior=VampPrior(components=2)), MeanField(), cells, epochs=1)
    with pytest.raises(ValueError, match="VampPrior\\(components=2\\) is made of the guide"):
        f.adapted(cells)


def test_clusters_of_counts_are_not_those_of_panels():
    """Two kinds of cells, of which every second one has fewer genes: each cluster has the genes of one kind."""
    rate = torch.tensor([[3.0] * 6 + [2.0] * 7, [2.0] * 6 + [3.0] * 7])
    kind, panel = torch.arange(80) % 2, torch.arange(80) // 2 % 2
    panels = torch.stack([torch.ones(GENES, dtype=torch.bool), MEASURED])
    cells = Cells(torch.poisson(rate[kind]) * panels[panel], panels=panels, panel=panel)
    parts = [clustered_shares(some, 2)[:, :6].sum(1) for some in (cells, replace(cells, panels=None, panel=None))]
    assert (parts[0][0] - parts[0][1]).abs() > 0.15
    assert (parts[1][0] - parts[1][1]).abs() < 0.05


def test_a_latent_tree_sums_over_the_states_of_genes_that_were_not_measured():
    """p(x without g) is the sum of p(x) over the counts of g, here with a size that is no total."""
    cells, g = counts(), 4
    model = LatentTree(size=SizeFactor()).sized(cells.dims).double()
    one = cells.subset([0] * 600)
    x = one.counts.clone()
    x[:, g] = torch.arange(600)
    with_count = evidence(model, replace(one, counts=x)).logsumexp(0)
    assert_close(
        evidence(model, without(cells.subset([0]), torch.arange(GENES) != g))[0], with_count, atol=1e-9, rtol=0
    )


def evidence(model, cells):
    """log p(x) of a page without latents [n]."""
    site = poutine.trace(model).get_trace(cells).nodes["x"]
    return site["fn"].log_prob(site["value"]).detach()


def test_cells_of_a_tissue_and_cells_without_coordinates_are_one_model_of_all_genes():
    """Fewer genes were measured in the tissue. The others are predicted there, from cells in which they were."""
    shape = {"genes": 40, "types": 3, "difference": 1.0, "batch_effect": 0.0, "seed": 0}
    tissue, others = simulated(cells=100, sections=2, **shape), simulated(cells=150, **shape)
    measured = np.arange(40) % 3 > 0
    others.obs_names = [f"other{n}" for n in range(150)]
    fields = Fields(spatial="spatial", section="section")
    with pytest.warns(UserWarning, match="150 of 250 cells have no coordinates"):
        cells = fields.read({"tissue": tissue[:, measured].copy(), "others": others}, genes="union")
    assert cells.graph[100:].nnz == 0
    assert cells.measured[:100].sum(1).unique().item() == measured.sum()
    f = quick(page(latent=4), SpatialGNN(), cells, epochs=20, batch_size=50, lr=1e-2)
    place = [cells.genes.index(gene) for gene in tissue.var_names]
    rates = f.denoise(cells, library=1)[:100][:, place][:, ~measured]
    truth = tissue.layers["mean"][:, ~measured] / tissue.layers["mean"].sum(1, keepdims=True)
    apart = [np.corrcoef(np.log(a), np.log(b))[0, 1] for a, b in zip(rates.T, truth.T, strict=True)]
    assert np.mean(apart) > 0.7  # of cells, within a gene
    assert np.isfinite(ps.log_evidence(f, cells.subset([0, 200]), 64, estimator=Importance(), progress=False)).all()


def test_latents_of_cells_with_a_third_of_the_genes_are_nearer_to_those_with_all_than_zeros_are():
    adata = simulated(cells=400, genes=90, types=4, difference=0.7, seed=0)
    few = adata[300:, ::3].copy()
    f = quick(page(latent=4), MeanField(), Fields().read(adata[:300].copy()), epochs=30, batch_size=64)
    whole = f.latent(adata[300:])
    with pytest.warns(UserWarning, match="60 of 90 genes are missing"):
        part, zeros = (f.fields.read(few, missing=missing) for missing in ("marginalise", "zero"))
    adapted = f.adapted(part, epochs=30, progress=False)

    def distance(z):
        return np.linalg.norm(z - whole, axis=1).mean()

    assert distance(f.latent(part)) < 0.8 * distance(f.latent(zeros))
    assert distance(adapted.latent(part)) < distance(f.latent(part))
    assert ps.certify(f, part, 2000, simulated=16).gap < 0.05
