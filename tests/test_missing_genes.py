"""Genes that were not measured are left out of the probability of a cell, and predicted like the others."""

import warnings
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fits import moved, quick
from missing import COMPILER, GENES, MEASURED, SharesOfAll, counts, of_fewer_genes, on_fewer_genes, page, without
from pyro import poutine
from quadrature import quadrature
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.comparison.genes import gene_scores
from pyroscvi.comparison.question import question, refuse_unequal
from pyroscvi.data.cells import Cells
from pyroscvi.data.panels import panels_of
from pyroscvi.distributions import native
from pyroscvi.evidence import evidences
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.simulated import simulate
from pyroscvi.fitting.resume import digest
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import PPCA
from pyroscvi.parts import (
    NB,
    ZINB,
    ZIP,
    Blend,
    Exponential,
    LatentSize,
    Log1pNormal,
    Poisson,
    SizeFactor,
    StandardNormal,
)
from pyroscvi.program import Model


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


# Effects of genes that all cells share are latents, not weights: cells have no joint density of their own there.
OTHERS = ("latent_tree", "ambient", "spillover", "donors", "perturbed")


@pytest.mark.parametrize("name", [name for name in ps.list_models() if name not in OTHERS])
def test_every_page_leaves_genes_out(name):
    """Other tests are those of a tree, and of foreign counts, whose shares are mixed before genes are left out.

    The joint density is that of a model of the measured genes only, with the same weights and latents.

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
        one, two = (quick(page(latent=2), MeanField(), part, batch_size=30, compile=c) for c in (False, "trace"))
    np.testing.assert_allclose(one.history["loss"], two.history["loss"], rtol=1e-5)
