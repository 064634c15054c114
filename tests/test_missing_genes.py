"""Genes that were not measured are left out of the probability of a cell, and predicted like the others."""

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fits import moved, quick
from pyro import poutine
from quadrature import quadrature
from torch import nn
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.comparison.genes import gene_scores
from pyroscvi.comparison.question import question, refuse_unequal
from pyroscvi.data import Fields, simulated
from pyroscvi.data.cells import Cells
from pyroscvi.data.panels import panels_of
from pyroscvi.distributions import native
from pyroscvi.evidence import Importance, evidences
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.simulated import simulate
from pyroscvi.fitting.resume import digest
from pyroscvi.guides import Flow, FullCovariance, MeanField, SpatialGNN
from pyroscvi.inference.run import evaluate
from pyroscvi.models import PPCA, SCVI, Annotated, LatentTree
from pyroscvi.parts import (
    NB,
    ZINB,
    ZIP,
    Blend,
    Exponential,
    LatentSize,
    Linear,
    Log1pNormal,
    Mixture,
    ObservedSize,
    Poisson,
    Size,
    SizeFactor,
    StandardNormal,
    VampPrior,
)
from pyroscvi.parts.clusters import clustered_shares
from pyroscvi.program import Model, _centre

COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
GENES = 13  # a prime, and no size of anything else
MEASURED = torch.tensor([True, False, True, True, False, True, True, False, True, True, False, True, False])


def counts(n: int = 8) -> Cells:
    """Cells in which every gene was measured."""
    x = torch.poisson(torch.linspace(1, 9, GENES).expand(n, -1)).double()
    labels = {"batch": torch.arange(n) % 2, "label": torch.arange(n) % 4}
    return Cells(x, labels, size_factor=x.sum(1) * torch.rand(n).double(), dtype=torch.float64)


def without(cells: Cells, measured: torch.Tensor = MEASURED) -> Cells:
    """The same cells, in which only these genes were measured."""
    rows = torch.zeros(len(cells), dtype=torch.long)
    return replace(cells, counts=cells.counts * measured, panels=measured[None], panel=rows)


def of_fewer_genes(cells: Cells, measured: torch.Tensor = MEASURED) -> Cells:
    """The same cells, as if there were no other genes."""
    return replace(cells, counts=cells.counts[:, measured])


def on_fewer_genes(model, cells: Cells, measured: torch.Tensor = MEASURED):
    """A model of the measured genes only, with the same weights."""
    few = ps.create(model) if isinstance(model, str) else replace(model)
    few = few.sized(of_fewer_genes(cells, measured).dims).double().eval()
    state = {
        name: t[..., measured] if t.shape[-1:] == (GENES,) else t[measured] if t.shape[:1] == (GENES,) else t
        for name, t in model.state_dict().items()
    }
    few.load_state_dict(state)
    return few


class SharesOfAll(nn.Module):
    """Log shares of the measured genes among all genes, and their other predictors."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, z, d):
        eta = self.decoder(z, d)
        return {head: value[..., MEASURED] for head, value in (eta | {"rho": eta["rho"].log_softmax(-1)}).items()}


def page(**slots) -> SCVI:
    return SCVI(**{"latent": 1, "decoder": Linear(), "likelihood": NB(), **slots})


@pytest.mark.parametrize("likelihood", [Poisson(), ZIP(), NB(), ZINB(), Log1pNormal()], ids=repr)
def test_the_evidence_is_that_of_a_model_of_the_measured_genes_with_the_same_weights(likelihood):
    cells = counts()
    model, guide = moved(page(likelihood=likelihood), FullCovariance(), cells)
    few = on_fewer_genes(model, cells)
    evidence = quadrature((model, guide), without(cells), d=1)
    expected = quadrature(
        (few, FullCovariance().sized(few, of_fewer_genes(cells)).double()), of_fewer_genes(cells), d=1
    )
    np.testing.assert_allclose(evidence, expected, rtol=0, atol=1e-9)
    assert (np.abs(evidence - quadrature((model, guide), cells, d=1)) > 1).all()


@pytest.mark.parametrize("name", [name for name in ps.list_models() if name != "latent_tree"])
def test_every_page_leaves_genes_out(name):
    """The joint density is that of a model of the measured genes only, with the same weights and latents.

    A size that is no total is that of all genes: the other model must know their shares among all. So must a blend of
    profiles. Without a softmax, an observed size is the total of the measured genes divided by their average share.
    """
    cells = counts()
    model, guide = moved(ps.create(name), MeanField(), cells)
    few = on_fewer_genes(model, cells)
    if isinstance(getattr(model, "size", None), LatentSize):
        few.decoder, few.likelihood.link = SharesOfAll(model.decoder), Exponential()
    elif isinstance(getattr(model, "decoder", None), Blend):
        few.decoder = SharesOfAll(model.decoder)
    elif isinstance(getattr(getattr(model, "likelihood", None), "link", None), Exponential):
        with torch.no_grad():
            few.decoder.heads["rho"].bias -= cells.dims.profile[MEASURED].double().sum().log()
    u = torch.randn(3, len(cells), sum(site.size for site in guide.sites.values()), dtype=torch.float64)
    log_p = Joint(model, guide.sites, without(cells))(u)
    assert_close(log_p, Joint(few, guide.sites, of_fewer_genes(cells))(u), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [LatentSize(), SizeFactor()], ids=repr)
def test_a_size_that_is_no_total_is_that_of_all_genes_so_that_counts_left_out_are_summed_over(size):
    """p(x without g) is the sum of p(x) over the counts of g."""
    cells, g = counts(), 4
    model, guide = moved(page(size=size, likelihood=ZINB()), MeanField(), cells)
    one = cells.subset([0] * 600)
    x = one.counts.clone()
    x[:, g] = torch.arange(600)
    u = torch.zeros(1, 1, sum(site.size for site in guide.sites.values()), dtype=torch.float64)
    with_count = Joint(model, guide.sites, replace(one, counts=x))(u.expand(-1, 600, -1))
    log_p = Joint(model, guide.sites, without(cells.subset([0]), torch.arange(GENES) != g))(u)
    assert_close(log_p, with_count.logsumexp(1, keepdim=True), rtol=0, atol=1e-9)


def test_means_of_measured_genes_sum_to_their_total_and_all_genes_are_predicted():
    cells = counts()
    model, _ = moved(page(), MeanField(), cells)
    z = torch.randn(len(cells), 1, dtype=torch.float64)

    def predicted(cells):
        return poutine.trace(poutine.condition(model, {"z": z})).get_trace(cells).nodes["x"]["fn"]

    few, whole = predicted(without(cells)), predicted(cells)
    assert_close(few.mean[:, MEASURED].sum(1), cells.x[:, MEASURED].sum(1))
    assert_close(few.mean / few.mean.sum(1, keepdim=True), whole.mean / whole.mean.sum(1, keepdim=True))
    assert (few.sample([200])[..., ~MEASURED].mean((0, 1)) > 0.1).all()
    assert few.expand([3, len(cells)]).log_prob(without(cells).x).shape == (3, len(cells))


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=COMPILER)])
@pytest.mark.parametrize("likelihood", [Poisson(), ZIP(), NB(), ZINB()], ids=repr)
def test_genes_left_out_have_no_gradient_and_their_counts_no_meaning(likelihood, compiled):
    cells = counts().to(dtype=torch.float32)
    declared = page(likelihood=likelihood)
    model = declared.sized(cells.dims)
    few = replace(declared).sized(of_fewer_genes(cells).dims)
    log_theta = None if model.likelihood.dispersion(cells) is None else torch.randn(GENES, requires_grad=True)
    eta = {head: torch.randn(len(cells), GENES, requires_grad=True) for head in ("rho", "gate")}
    eta = {head: eta[head] for head in likelihood.needs}
    size = cells.library[:, :1]
    parameters = [*eta.values(), *([] if log_theta is None else [log_theta])]
    for total in (None, size):
        whole = model.likelihood(size, log_theta, **eta).among(MEASURED.expand(len(cells), -1), total)
        with native.used(compiled):
            log_p = whole.log_prob(cells.x)
        own = {head: t[:, MEASURED] for head, t in eta.items()}
        share = size if total is not None else size * torch.softmax(eta["rho"], -1)[:, MEASURED].sum(1, keepdim=True)
        theta = None if log_theta is None else log_theta[MEASURED]
        expected = few.likelihood(share, theta, **own).log_prob(cells.x[:, MEASURED])
        assert_close(log_p, expected, rtol=1e-5, atol=1e-4)
        assert_close(log_p, whole.log_prob(cells.x * MEASURED), rtol=1e-5, atol=1e-4)
        ours = torch.autograd.grad(log_p.sum(), parameters)
        theirs = torch.autograd.grad(expected.sum(), parameters)
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other, rtol=1e-4, atol=1e-4)
        if total is not None:
            assert all((one[..., ~MEASURED] == 0).all() for one in ours)


@pytest.mark.parametrize("likelihood", [NB(), ZINB(), Log1pNormal()], ids=repr)
def test_log_probabilities_by_gene_sum_to_that_of_the_cell(likelihood):
    cells = counts()
    model, _ = moved(page(likelihood=likelihood), MeanField(), cells)
    part = without(cells)
    fn = poutine.trace(model).get_trace(part).nodes["x"]["fn"]
    by_gene = fn.log_pmf(part.x)
    assert (by_gene[:, ~MEASURED] == 0).all()
    assert_close(by_gene.sum(-1), fn.log_mass(part.x) if hasattr(fn, "log_mass") else fn.log_prob(part.x))


class Plain(Model):
    """A page of a user, without a part of ours: a Poisson for every gene."""

    prior = StandardNormal()

    def model(self, cells):
        with cells.plate():
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            pyro.sample("x", self.of(z.sum(-1, keepdim=True).exp().expand(*z.shape[:-1], GENES)), obs=cells.x)

    def of(self, rate):
        return dist.Poisson(rate).to_event(1)


class Whole(Plain):
    def of(self, rate):
        return dist.Multinomial(100, probs=rate)


def test_a_page_with_any_independent_distribution_leaves_genes_out_and_others_are_refused():
    part = without(counts().to(dtype=torch.float32))
    site = poutine.trace(Plain().sized(part.dims)).get_trace(part).nodes["x"]
    expected = dist.Poisson(site["fn"].base_dist.base_dist.rate[:, MEASURED]).to_event(1).log_prob(part.x[:, MEASURED])
    assert_close(site["fn"].log_prob(part.x), expected)
    with pytest.raises(TypeError, match="some genes of these cells were not measured, and Multinomial cannot leave"):
        Whole().sized(part.dims)(part)


def test_the_closed_form_of_ppca_agrees_on_the_measured_genes():
    cells = counts()
    model, guide = moved(PPCA(latent=2), FullCovariance(), cells)
    exact = on_fewer_genes(model, cells).log_evidence(cells.x[:, MEASURED]).detach()
    np.testing.assert_allclose(quadrature((model, guide), without(cells)), exact, atol=1e-9)
    table = evidences(Reader((model, guide), without(cells)), progress=False).table
    assert (table["log_evidence"] - exact.numpy()).abs().max() < 4 * table["monte_carlo_se"].max()  # and not "exact"


def test_simulated_cells_have_counts_of_measured_genes_only_and_the_certificate_closes():
    cells = counts(20)
    fit = moved(page(latent=2), FullCovariance(), cells)
    x = simulate(Reader(fit, without(cells)), seed=0).observed["x"]
    assert (x[:, ~MEASURED] == 0).all()
    assert (x[:, MEASURED].sum(0) > 0).all()
    assert ps.certify(fit, without(cells), simulated=16).gap < 0.05


def test_where_all_genes_were_measured_nothing_changes():
    assert panels_of([np.ones(3, bool), np.ones(3, bool)], [2, 2]) is None
    cells = counts()
    model, guide = moved(page(), MeanField(), cells)
    panels, panel = torch.stack([MEASURED, torch.ones(GENES, dtype=torch.bool)]), torch.ones(8, dtype=torch.long)
    mixed = replace(cells, panels=panels, panel=panel)
    assert_close(mixed.dims.profile, cells.dims.profile)
    assert torch.equal(mixed.whole_size(cells.dims.profile.double()), cells.library)
    u = torch.randn(2, 8, 1, dtype=torch.float64)
    assert torch.equal(Joint(model, guide.sites, mixed)(u), Joint(model, guide.sites, cells)(u))


def test_the_average_profile_and_the_sizes_do_not_depend_on_which_genes_were_measured():
    """Half of the cells have some of the genes; the profile and the moments of sizes are those of whole cells."""
    torch.manual_seed(1)
    share, size = torch.linspace(1, 9, GENES).double().softmax(0).sqrt(), 2000 * torch.rand(4000, 1).exp().double()
    share = share / share.sum()
    x = torch.poisson(share * size)
    whole = Cells(x, {"batch": torch.arange(4000) % 2}, dtype=torch.float64)
    panels, panel = torch.stack([torch.ones(GENES, dtype=torch.bool), MEASURED]), torch.arange(4000) % 2
    part = replace(whole, counts=x * panels[panel], panels=panels, panel=panel)
    assert_close(part.dims.profile, whole.dims.profile, rtol=0.02, atol=1e-4)
    assert_close(part.dims.log_size, whole.dims.log_size, rtol=0.05, atol=0.01)


def test_evidences_with_other_genes_left_out_are_not_compared():
    """However panels are numbered: only which genes were measured in which cell counts."""
    cells = counts()
    pair = moved(page(), MeanField(), cells)
    part = without(cells)
    panels = torch.stack([torch.ones(GENES, dtype=torch.bool), MEASURED])
    same = replace(part, panels=panels, panel=torch.ones(8, dtype=torch.long))
    zeros = replace(part, panels=None, panel=None)
    refuse_unequal({"one": question(pair, part), "other": question(pair, same)})
    with pytest.raises(ValueError, match=r"different genes were measured.*missing='marginalise' or missing='zero'"):
        refuse_unequal({"one": question(pair, part), "other": question(pair, zeros)})
    assert len({digest(cells), digest(part), digest(zeros)}) == 3


def test_genes_are_compared_where_they_were_measured():
    cells = counts(20)
    panels, panel = torch.stack([torch.ones(GENES, dtype=torch.bool), MEASURED]), torch.arange(20) % 2
    part = replace(cells, counts=cells.counts * panels[panel], panels=panels, panel=panel)
    pairs = {name: moved(page(likelihood=x), MeanField(), cells) for name, x in {"nb": NB(), "p": Poisson()}.items()}
    scores = gene_scores(pairs["nb"], part, 50, progress=False)
    assert (np.abs(scores.predicted[1::2][:, ~MEASURED]) < 1e-12).all()
    assert (scores.predicted[::2] != 0).all()
    table = ps.compare_genes(pairs, part, 50, progress=False).table.loc[[str(g) for g in range(GENES)]]
    np.testing.assert_allclose(table["mean"], cells.x[::2].mean(0) * ~MEASURED + part.x.mean(0) * MEASURED)


@COMPILER
def test_a_captured_step_leaves_genes_out():
    x = counts(60)
    panels, panel = torch.stack([torch.ones(GENES, dtype=torch.bool), MEASURED]), torch.arange(60) % 2
    part = replace(x, counts=x.counts * panels[panel], panels=panels, panel=panel).to(dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one would say that the step was not captured
        one, two = (quick(page(latent=2), MeanField(), part, batch_size=30, compile=c) for c in (False, True))
    np.testing.assert_allclose(one.history["loss"], two.history["loss"], rtol=1e-5)


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
    assert torch.equal(_centre(guide.posteriors(cells)["z"]), _centre(whole["z"]))
    q = guide.from_counts(part)
    for _ in range(2):
        expected = guide._expected(part, q)
        assert expected.shape == part.x.shape
        q = guide.from_counts(replace(part, counts=torch.where(MEASURED, part.x, expected)))
    assert_close(_centre(guide.posteriors(part)["z"]), _centre(q["z"]))
    assert not torch.allclose(_centre(guide.from_counts(part)["z"]), _centre(q["z"]))
    guide.panels = torch.cat([guide.panels, MEASURED[None]])
    assert torch.equal(_centre(guide.posteriors(part)["z"]), _centre(guide.from_counts(part)["z"]))


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
