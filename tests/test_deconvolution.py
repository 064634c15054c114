"""Deconvolution: the prior of few types, signatures, and spots mixed out of known types."""

from dataclasses import replace
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from command_line import run
from fits import quick, untrained
from pyro import poutine
from test_identities import loss
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.analysis.proportions import presence
from pyroscvi.cli import main
from pyroscvi.data import Cells
from pyroscvi.evidence import Importance
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI, Deconvolution, Topics
from pyroscvi.parts import NB, Linear, LogisticNormal, PerGene, Sparse
from pyroscvi.parts.sparse import TwoNormals

ALMOST_POISSON = NB(dispersion=PerGene(start=4.0))


@pytest.fixture
def reference():
    """Three types of cells with known shares of twenty genes."""
    torch.manual_seed(3)
    shares = (1.5 * torch.randn(3, 20)).softmax(-1)
    kind = torch.arange(90) % 3
    names = tuple(f"gene{g}" for g in range(20))
    x = torch.poisson(400 * shares[kind])
    return Cells(x, {"label": kind}, levels={"label": ("B", "NK", "T")}, genes=names), shares


def spots_of(shares, n=120):
    """Spots with one or two of the types, and their proportions."""
    w = torch.zeros(n, len(shares))
    for i in range(n):
        chosen = torch.randperm(len(shares))[: 1 + i % 2]
        w[i, chosen] = torch.tensor([1.0]) if len(chosen) == 1 else torch.tensor([0.6, 0.4])
    x = torch.poisson(500 * w @ shares)
    return Cells(x, genes=tuple(f"gene{g}" for g in range(shares.shape[1]))), w


def test_presence_is_summed_out_of_the_prior_type_by_type():
    """log p(z) is the sum over all sets of types, which factorises."""
    fn = TwoNormals(torch.tensor([0.3, -1.0, 0.5]), torch.full((3,), -5.0), torch.zeros(3), 1.0)
    z = torch.tensor([-4.0, 0.2, -2.0])
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    log_p = torch.distributions.Bernoulli(logits=fn.logits).log_prob(every).sum(1)
    log_p = log_p + torch.distributions.Normal(-5.0 * (1 - every), 1.0).log_prob(z).sum(1)
    assert_close(fn.log_prob(z), log_p.logsumexp(0))
    assert_close(fn.presence(z), (log_p.softmax(0)[:, None] * every).sum(0))


def test_draws_of_the_prior_have_the_number_of_types_that_it_says():
    fn = TwoNormals(torch.tensor([1.0, -1.0]), torch.full((2,), -9.0), torch.zeros(2), 1.0).expand((4000,))
    assert_close((fn.sample() > -4.5).float().mean(0), fn.logits.sigmoid(), rtol=0, atol=0.03)


def test_with_all_types_present_the_prior_is_logistic_normal_and_the_page_is_topics(cells):
    one, guide = untrained(Deconvolution(latent=3), MeanField(), cells)
    two, _ = untrained(Topics(latent=3, prior=LogisticNormal(), likelihood=NB()), MeanField(), cells)
    with torch.no_grad():
        one.prior.logits.fill_(100.0)
    two.load_state_dict({name: t for name, t in one.state_dict().items() if name != "prior.logits"})
    assert_close(loss(one, guide, cells), loss(two, guide, cells), rtol=1e-3, atol=0)


def test_signatures_are_shares_of_annotated_cells(reference):
    cells, shares = reference
    table = ps.signatures(cells)
    assert list(table.index) == ["B", "NK", "T"]
    assert list(table.columns) == list(cells.genes)
    np.testing.assert_allclose(table.sum(1), 1)
    np.testing.assert_allclose(table, shares, atol=0.01)
    half = replace(cells, categories={"label": torch.where(cells.label == 1, -1, cells.label)})
    assert list(ps.signatures(half).index) == ["B", "T"]
    with pytest.raises(ValueError, match=r"signatures need cells with labels.*Fields\(label=\.\.\.\)"):
        ps.signatures(replace(cells, categories={}))


def test_signatures_of_a_fit_are_denoised(reference):
    cells, _ = reference
    fit = quick(SCVI(latent=2, likelihood=NB()), MeanField(), cells, epochs=1)
    table = ps.signatures(cells, fit)
    np.testing.assert_allclose(table.sum(1), 1, rtol=1e-5)
    of_one_type = fit.denoise(cells.subset(cells.label == 0), library=1.0).mean(0)
    np.testing.assert_allclose(table.loc["B"], of_one_type, atol=0.01)


def test_known_signatures_are_matched_by_name_and_do_not_change_in_a_fit(reference):
    cells, _ = reference
    table = ps.signatures(cells)
    shuffled = table[list(reversed(table.columns))]
    page = Deconvolution().known(shuffled, cells)
    np.testing.assert_allclose(page.decoder.B.detach(), table, rtol=1e-4)
    fit = quick(page, MeanField(), cells, epochs=1)
    assert torch.equal(fit.model.decoder.raw_B, page.decoder.raw_B)
    assert list(fit.proportions(cells, 2)) == list(fit.presence(cells, 2)) == ["B", "NK", "T"]
    assert not torch.equal(fit.model.likelihood.dispersion.log_theta, page.likelihood.dispersion.log_theta)
    with pytest.raises(KeyError, match="gene0"):
        Deconvolution().known(table.drop(columns="gene0"), cells)


def test_a_prior_without_absent_types_has_no_presence(cells):
    with pytest.raises(ValueError, match=r"under Dirichlet\(\) no type is absent: use prior=Sparse\(\)"):
        presence(SimpleNamespace(model=Topics(latent=2)), cells)


def test_proportions_and_presence_of_mixed_spots_are_recovered(reference):
    cells, shares = reference
    spots, w = spots_of(shares)
    page = Deconvolution(likelihood=ALMOST_POISSON).known(ps.signatures(cells), spots)
    fit = ps.fit(page, MeanField(), spots, epochs=200, batch_size=120, lr=2e-2, progress=False)
    estimate, present = fit.proportions(spots), fit.presence(spots)
    assert present.shape == estimate.shape == (120, 3)
    assert np.abs(estimate.to_numpy() - w.numpy()).mean() < 0.03
    assert ((present.to_numpy() > 0.5) == (w.numpy() > 0)).mean() > 0.95


def test_the_evidence_is_lower_without_a_type_that_spots_have(reference):
    cells, shares = reference
    spots, _ = spots_of(shares, 40)
    table = ps.signatures(cells)
    evidence = {}
    for name, types in {"all": ["B", "NK", "T"], "two": ["B", "NK"]}.items():
        page = Deconvolution(likelihood=ALMOST_POISSON).known(pd.DataFrame(table.loc[types]), spots)
        fit = quick(page, MeanField(), spots, epochs=40, batch_size=40, lr=2e-2, validation=None)
        estimator = Importance()
        evidence[name] = ps.log_evidence(fit, spots, 100, estimator=estimator, progress=False).mean()
    assert evidence["all"] > evidence["two"] + 5


def test_a_page_simulates_spots_of_few_types():
    blank = Cells(torch.full((500, 20), 5.0))
    page = Deconvolution(latent=3, prior=Sparse(absent=-8.0)).sized(blank.dims)
    nodes = poutine.trace(poutine.uncondition(page)).get_trace(blank).nodes
    w = nodes["z"]["value"].softmax(-1)
    number = (w > 0.01).sum(-1).float()
    assert 1.7 < number.mean() < 2.2


def test_a_linear_decoder_has_no_signatures_to_fix(reference):
    cells, _ = reference
    with pytest.raises(AttributeError):
        Deconvolution(decoder=Linear()).known(ps.signatures(cells), cells)


def test_the_command_line_takes_annotated_cells_and_writes_what_spots_are_made_of(tmp_path, capsys):
    data, spots, out = (tmp_path / name for name in ("cells.h5ad", "spots.h5ad", "out.h5ad"))
    cells = ps.data.simulated(cells=60, genes=8, seed=0)
    cells.write_h5ad(data)
    ps.data.simulated(cells=20, genes=8, seed=1).write_h5ad(spots)
    fit = ("fit", spots, "--epochs", 2, "--known", data, "--out", tmp_path / "run")
    run(*fit, "--model", "deconvolution", "--known-types", "cell_type", "--force")
    run("proportions", tmp_path / "run", spots, "--out", out)
    assert "obsm['pyroscvi_proportions'] and obsm['pyroscvi_presence']" in capsys.readouterr().out
    written = anndata.read_h5ad(out).obsm
    for name in "proportions", "presence":
        assert list(written[f"pyroscvi_{name}"]) == ["type0", "type1", "type2"]
    np.testing.assert_allclose(written["pyroscvi_proportions"].sum(1), 1, rtol=1e-5)
    page = ps.load(tmp_path / "run").model
    reference = ps.Fields(label="cell_type").read(cells)
    np.testing.assert_allclose(page.decoder.B.detach(), ps.signatures(reference), rtol=1e-3)
    for model, error in {
        "deconvolution": "name the column of their types with --known-types",
        "scvi": "takes nothing that is known before",
    }.items():
        assert main([*map(str, fit), "--model", model, "--force"]) == 1
        assert error in capsys.readouterr().err
    cells[:, :3].copy().write_h5ad(data)
    assert main([*map(str, fit), "--model", "deconvolution", "--force"]) == 1
    assert "lacks 5 of the genes of the cells: 'gene3'" in capsys.readouterr().err
