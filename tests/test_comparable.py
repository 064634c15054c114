"""What may be compared: the same cells, the same estimand, the same measure."""

from dataclasses import replace
from math import log

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from fits import untrained
from scipy import sparse
from torch import nn

import pyroscvi as ps
from pyroscvi.comparison.compare import compare
from pyroscvi.comparison.question import fingerprint
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.as_counts import as_counts
from pyroscvi.evidence.estimator import Importance
from pyroscvi.evidence.proposals import GuideDraws
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.table import evidences, log_evidence
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import LDVAE, PPCA, SCVI, Annotated
from pyroscvi.parts import NB, LatentSize, Log1pNormal, ReadCell, SizeFactor

GUIDE = FullCovariance(encoder=ReadCell(widths=16))


@pytest.fixture
def pair(cells):
    return untrained(SCVI(latent=2, likelihood=NB()), GUIDE, cells)


# What is refused


def refused(a, b, cells_a, cells_b, match):
    with pytest.raises(ValueError, match=match):
        compare({"a": a, "b": b}, {"a": cells_a, "b": cells_b}, 5)


def test_other_cells(pair, named):
    fewer = named.subset(torch.arange(59))
    others = replace(named, names=np.array([f"other{i}" for i in range(60)]))
    refused(pair, pair, named, fewer, r"the cells differ \(60 and 59\).*same held-out cells")
    refused(pair, pair, named, others, "the cells differ")


def test_cells_in_another_order(pair, named):
    refused(pair, pair, named, named.subset(torch.arange(59, -1, -1)), "cells come in another order")


def test_other_genes(pair, named):
    renamed = replace(named, genes=(*named.genes[:-1], "extra"))
    refused(pair, pair, named, renamed, r"the genes differ.*extra, gene11.*Fields\(\.\.\., genes=genes\)")


def test_another_number_of_genes(pair, named):
    fewer = replace(named, counts=named.counts[:, :-1], genes=named.genes[:-1])
    refused(pair, untrained(SCVI(latent=2), GUIDE, fewer), named, fewer, r"the genes differ \(12 and 11")


def test_genes_in_another_order(pair, named):
    turned = replace(named, genes=named.genes[::-1])
    refused(pair, pair, named, turned, r"genes come in another order.*fit\.fields\.read")


def test_other_counts(pair, named):
    one_more = named.counts.clone()
    one_more[3, 4] += 1
    refused(pair, pair, named, replace(named, counts=one_more), r"the counts differ.*Fields\(counts=")


def test_missing_names_do_not_prevent_a_comparison(pair, named):
    table = compare({"a": pair, "b": pair}, {"a": named, "b": replace(named, names=None, genes=None)}, 5).table
    assert (table["difference"] == 0).all()


def test_the_same_counts_are_the_same_however_they_are_stored(pair, named):
    stored = replace(named, counts=sparse.csr_matrix(named.counts.numpy().astype(np.float64)))
    assert fingerprint(stored) == fingerprint(named)
    table = compare({"a": pair, "b": pair}, {"a": named, "b": stored}, 5).table
    assert table["difference"].abs().max() < 1e-9


def test_another_estimand(pair, named):
    latent = untrained(SCVI(latent=2, size=LatentSize()), GUIDE, named)
    refused(pair, latent, named, named, r"'a' gives p\(x \| l\) and 'b' gives p\(x\).*'a' with size=LatentSize\(\)")
    refused(
        latent,
        pair,
        named,
        named,
        r"'b' with size=LatentSize\(\), or with a size factor",
    )


def test_only_one_of_two_models_predicts_labels(pair, named):
    annotated = untrained(Annotated(latent=2), GUIDE, named)
    refused(pair, annotated, named, named, "'b' also predicts labels.*unknown")
    silent = replace(named, categories={**named.categories, "label": torch.full((60,), -1)})
    table = compare({"a": pair, "b": annotated}, {"a": named, "b": silent}, 5).table
    assert set(table["estimand"]) == {"p(x | l)"}


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_a_size_factor_that_is_the_total_is_not_compared_with_a_latent_size(named, scale):
    totals = replace(named, size_factor=scale * named.library.squeeze(-1))
    factor = untrained(SCVI(latent=2, size=SizeFactor()), GUIDE, totals)
    latent = untrained(SCVI(latent=2, size=LatentSize()), GUIDE, totals)
    refused(factor, latent, totals, totals, r"'a' gives p\(x \| l\) and 'b' gives p\(x\)\. The size of a cell in 'a'")
    assert set(evidences(Reader(factor, totals), 5).table["estimand"]) == {"p(x | l)"}
    assert set(evidences(Reader(latent, totals), 5).table["estimand"]) == {"p(x)"}


def test_a_size_factor_from_elsewhere_is_compared_with_a_latent_size(named):
    elsewhere = replace(named, size_factor=torch.rand(60) + 50)
    factor = untrained(SCVI(latent=2, size=SizeFactor()), GUIDE, elsewhere)
    latent = untrained(SCVI(latent=2, size=LatentSize()), GUIDE, elsewhere)
    assert set(compare({"a": factor, "b": latent}, elsewhere, 5).table["estimand"]) == {"p(x)"}


def test_other_labels(named):
    annotated = untrained(Annotated(latent=2), GUIDE, named)
    moved = replace(named, categories={**named.categories, "label": (named.label + 1) % 3})
    refused(annotated, annotated, named, moved, "their labels differ.*the same labels")


def test_labels_under_other_codes_are_the_same_labels(named):
    annotated, b = untrained(Annotated(latent=2), GUIDE, named), torch.tensor([2, 1, 0])
    codes = torch.where(named.label >= 0, b[named.label.clamp(min=0)], -1)
    turned = replace(
        named, categories={**named.categories, "label": codes}, levels={**named.levels, "label": ("T", "NK", "B")}
    )
    compare({"a": annotated, "b": annotated}, {"a": named, "b": turned}, 5)


def test_the_scale_of_beliefs_changes_nothing(named):
    """Only ratios of the weights of a cell have a meaning."""
    weights = torch.distributions.Dirichlet(torch.ones(3)).sample((60,))
    categories = {"batch": named.batch}
    one, ten = (replace(named, categories=categories, belief=scale * weights) for scale in (1, 10))
    annotated = untrained(Annotated(latent=2), GUIDE, one)
    table = compare({"sum 1": annotated, "sum 10": annotated}, {"sum 1": one, "sum 10": ten}, 5).table
    assert table["difference"].abs().max() < 1e-5
    assert set(table["estimand"]) == {"p(x, label | l)"}
    refused(annotated, annotated, one, replace(one, belief=weights.flip(0)), "their labels differ")


def test_another_base_measure(named):
    refused(
        untrained(PPCA(latent=2), GUIDE, named),
        untrained(LDVAE(latent=2), GUIDE, named),
        named,
        named,
        "base measures differ.*x: log1p.*x: counting.*as_counts",
    )


def test_another_support(pair, named):
    class Anything(NB):
        """Counts that say that they may be fractions."""

        def forward(self, l, log_theta, **eta):
            x = super().forward(l, log_theta, **eta)
            x.support = torch.distributions.constraints.independent(torch.distributions.constraints.nonnegative, 1)
            x.expand = lambda shape: x
            return x

    refused(pair, untrained(SCVI(latent=2, likelihood=Anything()), GUIDE, named), named, named, "supports differ")


def test_genes_and_levels_that_a_fit_does_not_know(named):
    fit = ps.fit(SCVI(latent=2), MeanField(), named, epochs=1, progress=False)
    with pytest.raises(ValueError, match="gene 'gene11' where the fit has 'gene0'"):
        compare({"a": fit}, replace(named, genes=named.genes[::-1]))
    with pytest.raises(ValueError, match="gene 'extra' where the fit has 'gene11'"):
        compare({"a": fit}, replace(named, genes=(*named.genes[:-1], "extra")))
    with pytest.raises(ValueError, match="these cells have the levels b, a of 'batch', the fit a, b"):
        compare({"a": fit}, replace(named, levels={**named.levels, "batch": ("b", "a")}))
    with pytest.raises(ValueError, match="knows 12 genes, and these cells have 11"):
        compare({"a": fit}, replace(named, counts=named.counts[:, :-1], genes=None))


def test_nothing_to_compare(named):
    with pytest.raises(ValueError, match="at least one fit"):
        compare({}, named)


def test_clusters_by_a_missing_or_constant_field_are_refused(pair, named):
    with pytest.raises(KeyError, match="no categorical field 'donor' to cluster by"):
        compare({"a": pair}, named, 5, by="donor")
    first = named.subset(named.batch == 0)
    with pytest.raises(ValueError, match="all cells are of one batch"):
        compare({"a": pair}, first, 5, by="batch")


# Masses of counts


class Prior(nn.Module):
    """A guide that has not looked."""

    def __init__(self, sites):
        super().__init__()
        self.sites = sites

    def posteriors(self, cells):
        return {"z": dist.Normal(torch.zeros(len(cells), 1, dtype=cells.dtype), 1.0).to_event(1)}


def test_masses_add_up_to_one():
    cells = Cells(torch.arange(500.0)[:, None], size_factor=torch.full((500,), 5.0))
    model, guide = untrained(SCVI(latent=1, likelihood=Log1pNormal(), size=SizeFactor()), GUIDE, cells)
    with as_counts():
        mass = np.exp(log_evidence((model, Prior(guide.sites)), cells, 3, estimator=Importance(GuideDraws())))
    beyond = dist.Normal(log(6.0), 1.0).cdf(torch.tensor(log(500.5)))
    assert mass.sum() == pytest.approx(beyond.item(), abs=1e-6)


def test_a_gaussian_is_compared_by_its_masses(named):
    two = {"gaussian": untrained(PPCA(latent=2), GUIDE, named), "counts": untrained(LDVAE(latent=2), GUIDE, named)}
    with as_counts():
        table = compare(two, named, 20).table
    assert set(table["estimand"]) == {"p(x)"}
    assert set(table["certificate"]) == {"uncertified"}  # the closed form is that of the density
