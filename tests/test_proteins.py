"""Proteins: reading them, their distribution, the page, and predictions of proteins that were not measured."""

import json
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
from pyroscvi.analysis.proteins import proteins
from pyroscvi.comparison.question import question, refuse_unequal
from pyroscvi.data import Cells, Fields, from_mudata, simulated
from pyroscvi.data.proteins import read_proteins
from pyroscvi.distributions import NegativeBinomial, ProteinCounts
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.simulated import simulate
from pyroscvi.evidence.table import estimand
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI, Proteins
from pyroscvi.parts import NB
from pyroscvi.parts.surface import two_means

NAN = float("nan")


@pytest.fixture
def cite():
    """Twenty cells with the counts of two proteins, the second of which was not measured in half of them."""
    adata = simulated(cells=20, genes=6, seed=0)
    counts = np.arange(40.0).reshape(20, 2)
    counts[::2, 1] = NAN
    adata.obsm["surface"] = pd.DataFrame(counts, adata.obs_names, ["CD3", "CD4"])
    return adata


def mixed(p=3):
    logits, log_b = torch.randn(p), torch.randn(p)
    return ProteinCounts(logits, NegativeBinomial(log_b, torch.ones(p)), NegativeBinomial(log_b + 1, torch.zeros(p)))


def test_probabilities_of_all_counts_add_up_to_one():
    fn = mixed(1)
    counts = torch.arange(4000.0).unsqueeze(-1)
    assert_close(fn.log_prob(counts).exp().sum(), torch.tensor(1.0), rtol=1e-4, atol=0)
    assert_close((fn.log_prob(counts).exp() * counts.squeeze(-1)).sum(), fn.mean[0], rtol=1e-2, atol=0)


def test_a_protein_that_was_not_measured_has_probability_one():
    fn = mixed()
    first = fn.log_pmf(torch.tensor([4.0, NAN, NAN]))
    assert (first[1:] == 0).all()
    assert fn.log_prob(torch.tensor([4.0, NAN, NAN])) == first[0]
    assert fn.log_prob(torch.full((5, 3), NAN)).tolist() == [0.0] * 5


def test_the_posterior_of_foreground_is_bayes_rule():
    fn = mixed()
    x = torch.tensor([0.0, 7.0, NAN])
    pi = fn.logits.sigmoid()
    foreground, background = (one.log_pmf(x.nan_to_num()).exp() for one in (fn.foreground, fn.background))
    bayes = pi * foreground / (pi * foreground + (1 - pi) * background)
    assert_close(fn.after(x).probability, torch.where(x.isnan(), pi, bayes))


def test_draws_have_the_mean_and_the_variance():
    fn = mixed(2).expand((4000,))
    x = fn.sample()
    assert_close(x.mean(0), fn.mean[0], rtol=0.1, atol=0)
    assert_close(x.var(0), fn.variance[0], rtol=0.3, atol=0)


def test_two_means_of_columns_with_missing_values():
    lower, upper = two_means(torch.tensor([[0.0, 1.0], [0.2, NAN], [5.0, 1.0], [5.2, 9.0]]))
    assert_close(lower, torch.tensor([0.1, 1.0]))
    assert_close(upper, torch.tensor([5.1, 9.0]))


def test_without_proteins_the_page_is_scvi_with_nb(cells):
    """Proteins that were not measured change nothing, and the guide of scVI reads genes only."""
    unmeasured = replace(cells, proteins=torch.full_like(cells.proteins, NAN))
    one, _ = untrained(Proteins(latent=3), MeanField(), cells)
    two, guide = untrained(SCVI(latent=3, likelihood=NB()), MeanField(), cells)
    two.load_state_dict({name: t for name, t in one.state_dict().items() if not name.startswith("surface")})
    assert guide.encoder.proteins == 0
    assert loss(one, guide, unmeasured) == loss(two, guide, unmeasured)
    assert loss(one, guide, cells) > loss(two, guide, cells)


def test_the_guide_reads_proteins(cells):
    _, guide = untrained(Proteins(latent=3), MeanField(), cells)
    other = replace(cells, proteins=cells.proteins + 5)
    changed = (guide.posteriors(cells)["z"].mean != guide.posteriors(other)["z"].mean).all(-1)
    assert changed.tolist() == (~cells.proteins.isnan().all(1)).tolist()


def test_a_page_without_proteins_is_refused_in_words(cells):
    with pytest.raises(ValueError, match=r"no proteins were read.*Fields\(proteins=\.\.\.\)"):
        Proteins().sized(replace(cells, proteins=None).dims)


def test_the_estimand_has_proteins_if_one_was_measured(cells):
    model, _ = untrained(Proteins(latent=3), MeanField(), cells)
    assert estimand(model, cells) == "p(x, proteins | l)"
    assert estimand(model, replace(cells, proteins=None)) == "p(x | l)"


def test_evidences_with_and_without_proteins_are_not_compared(cells):
    cells = replace(cells, graph=None)
    pair, other = untrained(Proteins(latent=3), MeanField(), cells), untrained(SCVI(latent=3), MeanField(), cells)
    with_proteins, genes = question(pair, cells), question(other, cells)
    with pytest.raises(ValueError, match="also predicts proteins: give it cells read without proteins"):
        refuse_unequal({"cite": with_proteins, "rna": genes})
    refuse_unequal({"cite": question(pair, replace(cells, proteins=None)), "rna": genes})
    with pytest.raises(ValueError, match="counts of proteins differ"):
        refuse_unequal({"a": with_proteins, "b": question(pair, replace(cells, proteins=cells.proteins + 1))})


def test_simulated_cells_lack_the_proteins_that_these_cells_lack(cells):
    reader = Reader(untrained(Proteins(latent=3), MeanField(), cells), replace(cells, graph=None))
    assert_close(simulate(reader, 0).observed["proteins"].isnan(), cells.proteins.isnan())


def test_proteins_are_read_from_a_table_by_name(cite):
    cells = Fields(proteins="surface").read(cite)
    assert cells.protein_names == ("CD3", "CD4")
    np.testing.assert_array_equal(cells.proteins, cite.obsm["surface"].to_numpy(np.float32))
    assert cells.dims.proteins == 2
    query = cite.copy()
    query.obsm["surface"] = cite.obsm["surface"][["CD4"]].assign(CD8=1.0)
    again = Fields.from_dict(cells.fields.to_dict()).read(query)
    assert again.protein_names == ("CD3", "CD4")
    assert again.proteins[:, 0].isnan().all()
    np.testing.assert_array_equal(again.proteins[:, 1], cells.proteins[:, 1])
    del query.obsm["surface"]
    assert cells.fields.read(query).proteins is None


def test_columns_of_an_array_are_named_or_numbered(cite):
    cite.obsm["array"] = cite.obsm["surface"].to_numpy()
    assert Fields(proteins="array").read(cite).protein_names == ("0", "1")
    assert Fields(proteins="array", protein_names=("a", "b")).read(cite).protein_names == ("a", "b")
    with pytest.raises(ValueError, match="has 2 columns for the 3 proteins 'a', 'b', 'c'"):
        Fields(proteins="array", protein_names=("a", "b", "c")).read(cite)


@pytest.mark.parametrize(
    ("counts", "error"),
    [
        ([[0.5, 1.0]], "must be counts, or NaN.*the first is 0.5 in cell 'cell0'"),
        ([[-1.0, 1.0]], "must be counts, or NaN"),
        ([["a", "b"]], "does not hold numbers"),
    ],
)
def test_values_that_are_not_counts_are_refused(counts, error):
    adata = simulated(cells=1, genes=3)
    adata.obsm["surface"] = np.array(counts)
    with pytest.raises((TypeError, ValueError), match=error):
        read_proteins(adata, "surface", None)


def test_data_without_the_proteins_of_a_fit_are_refused(cite):
    with pytest.raises(ValueError, match=r"none of the proteins 'CD19'; it has 'CD3', 'CD4'"):
        read_proteins(cite, "surface", ("CD19",))


def test_several_data_sets_have_the_proteins_of_any(cite):
    rna, other = cite.copy(), cite.copy()
    del rna.obsm["surface"]
    other.obsm["surface"] = cite.obsm["surface"].rename(columns={"CD4": "CD8"})
    cells = Fields(proteins="surface", batch="source").read({"cite": cite, "rna": rna, "other": other})
    assert cells.protein_names == ("CD3", "CD4", "CD8")
    measured = (~cells.proteins.isnan()).reshape(3, 20, 3).sum(1)
    assert measured.tolist() == [[20, 10, 0], [0, 0, 0], [20, 0, 10]]


def test_a_mudata_becomes_an_anndata_with_proteins(cite):
    """A MuData has its modalities in ``mod`` and columns of all of them in ``obs``."""
    surface = ps.data.simulated(cells=20, genes=2, seed=1)[:15]
    mdata = SimpleNamespace(mod={"rna": cite, "prot": surface}, obs=pd.DataFrame({"donor": "a"}, cite.obs_names))
    adata = from_mudata(mdata)
    cells = Fields(proteins="proteins", batch="donor").read(adata)
    np.testing.assert_array_equal(cells.proteins[:15], surface.X.toarray())
    assert cells.proteins[15:].isnan().all()
    assert cells.protein_names == ("gene0", "gene1")
    assert "donor" not in cite.obs
    with pytest.raises(KeyError, match=r"no modality .*adt.*; it has .*rna.*, .*prot"):
        from_mudata(mdata, proteins="adt")


def test_tables_of_proteins_have_names_and_follow_the_state(cells):
    cells = replace(cells, graph=None, names=np.array([f"cell{i}" for i in range(60)]))
    fit = quick(Proteins(latent=3), MeanField(), cells)
    tables = fit.proteins(cells, given={"batch": "a"}, samples=3)
    for table in tables:
        assert table.shape == (60, 3)
        assert list(table.columns) == ["CD3", "CD4", "CD8"]
        assert list(table.index) == list(cells.names)
    assert tables.probability.to_numpy().min() >= 0
    assert tables.probability.to_numpy().max() <= 1
    assert (tables.foreground <= tables.expected + 1e-5).all().all()
    with pytest.raises(ValueError, match=r"SCVI\(.*has no proteins: fit the page Proteins"):
        proteins(SimpleNamespace(model=SCVI(latent=2)), cells)


def test_the_page_recovers_background_and_foreground_of_cells_that_it_simulated():
    torch.manual_seed(0)
    blank = Cells(torch.full((400, 30), 10.0), proteins=torch.ones(400, 4))
    truth = Proteins(latent=2).sized(blank.dims)
    with torch.no_grad():
        truth.surface.c.copy_(torch.tensor([0.5, 1.5, 2.0, 3.0]))
        truth.surface.c_a.fill_(3.0)
        truth.surface.log_theta.fill_(2.0)
        truth.surface.decoder.heads["pi"].weight.mul_(8)
        nodes = poutine.trace(poutine.uncondition(truth)).get_trace(blank).nodes
    x, surface = nodes["x"]["value"], nodes["proteins"]["value"]
    hidden = torch.arange(400) % 4 == 0
    cells = Cells(x, proteins=torch.where(hidden[:, None], NAN, surface))
    fit = ps.fit(Proteins(latent=2), MeanField(), cells, epochs=30, batch_size=100, lr=2e-2, progress=False)
    assert_close(fit.model.surface.c, truth.surface.c, rtol=0, atol=0.3)
    expected = nodes["proteins"]["fn"].after(surface).probability
    probability = torch.as_tensor(fit.proteins(cells).probability.to_numpy())
    assert (probability - expected)[~hidden].abs().mean() < 0.05


def test_the_command_line_writes_the_proteins_of_cells_without_any(cite, tmp_path, capsys):
    data, rna, out = (tmp_path / name for name in ("cite.h5ad", "rna.h5ad", "out.h5ad"))
    cite.write_h5ad(data)
    run("fit", data, "--model", "proteins:latent=2", "--proteins", "surface", "--batch", "batch", "--epochs", 2,
        "--out", tmp_path / "run")  # fmt: skip
    del cite.obsm["surface"]
    cite.write_h5ad(rna)
    capsys.readouterr()
    run("proteins", tmp_path / "run", rna, "--given", "batch=batch0", "--out", out, "--json")
    means = json.loads(capsys.readouterr().out)["means"]
    assert list(means) == ["CD3", "CD4"]
    written = anndata.read_h5ad(out).obsm
    tables = ps.load(tmp_path / "run").proteins(cite, given={"batch": "batch0"})._asdict()
    for name, table in tables.items():
        np.testing.assert_allclose(written[f"pyroscvi_protein_{name}"], table, rtol=1e-6)
    assert means["CD3"]["foreground"] == pytest.approx(tables["foreground"]["CD3"].mean(), rel=1e-4)
