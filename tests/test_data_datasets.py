"""The data sets of the library: real counts exactly recovered, and simulated ones that are what they claim."""

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from anndata import AnnData
from scipy import sparse, stats

from pyroscvi.data import Fields, highly_variable, pbmc68k_reduced, simulated
from pyroscvi.data.datasets import recovered


@pytest.fixture(scope="module")
def blood():
    return pbmc68k_reduced()


def test_pbmc68k_counts_are_recovered_exactly(blood):
    processed = sc.datasets.pbmc68k_reduced()
    counts, deviation = recovered(processed)
    assert deviation < 0.1  # 0.0815: logs are stored to three decimals, and a half would be needed to round wrongly
    assert (counts != blood.X).nnz == 0
    assert counts.shape == (700, 765)
    # The way back: logs of these counts are the stored ones, to the decimals that were stored.
    sizes = processed.obs["n_counts"].to_numpy()
    again = np.log1p(1e4 * blood.X.toarray() / sizes[:, None])
    assert np.abs(again - processed.raw.X.toarray()).max() <= 5.1e-4
    assert (blood.X.toarray() == 0).sum() == (processed.raw.X.toarray() == 0).sum()
    assert (np.asarray(blood.X.sum(1))[:, 0] <= sizes).all()


def test_pbmc68k_is_ready_to_read(blood):
    cells = Fields("counts", label="bulk_labels", size_factor="n_counts").read(blood)
    assert repr(cells) == "Cells(700 cells, 765 genes, label: 10)"
    assert (blood.layers["counts"] != blood.X).nnz == 0
    assert sparse.issparse(cells.counts)
    assert cells.library.min() > 0
    assert "10x" in blood.uns["source"]
    assert cells.levels["label"][cells.label[0]] == blood.obs["bulk_labels"].iloc[0]


def test_what_scanpy_ships_is_refused_as_counts():
    with pytest.raises(ValueError, match=r"X holds values that are not counts: .* negative, .* fractional"):
        Fields().read(sc.datasets.pbmc68k_reduced())


def test_simulated_counts_are_negative_binomial_about_their_means():
    data = simulated(cells=4000, genes=12, theta=3.0, seed=4)
    x, mu = data.layers["counts"].toarray(), data.layers["mean"]
    z = (x - mu) / np.sqrt(mu + mu**2 / 3.0)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert (z**2).mean() == pytest.approx(1, abs=0.05)
    # The probability integral transform, jittered within each step, is uniform for the very distribution only.
    p = 3.0 / (3.0 + mu)
    below, at = stats.nbinom.cdf(x - 1, 3.0, p), stats.nbinom.pmf(x, 3.0, p)
    u = below + np.random.default_rng(0).uniform(size=x.shape) * at
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    assert data.uns["theta"] == 3.0


def test_simulated_means_follow_type_batch_and_size():
    data = simulated(cells=500, genes=30, types=4, batches=3, seed=1)
    mean = data.layers["mean"]
    np.testing.assert_allclose(mean.sum(1), data.obs["size"], rtol=1e-12)
    share = np.log(mean / mean.sum(1, keepdims=True))
    for kind in range(4):
        cells = (data.obs["cell_type"] == f"type{kind}").to_numpy() & (data.obs["batch"] == "batch1").to_numpy()
        np.testing.assert_allclose(share[cells], np.broadcast_to(share[cells][0], share[cells].shape), atol=1e-9)
    assert set(data.obs["cell_type"]) == {f"type{k}" for k in range(4)}
    assert set(data.obs["batch"]) == {"batch0", "batch1", "batch2"}
    alone = simulated(cells=50, genes=30, types=4, batches=1, batch_effect=0, seed=1)
    kind = alone.obs["cell_type"].cat.codes.to_numpy()
    np.testing.assert_allclose(
        np.log(alone.layers["mean"] / alone.obs["size"].to_numpy()[:, None]), alone.varm["log_share"].T[kind]
    )


def test_simulated_tissue_has_its_domains():
    data = simulated(cells=600, types=3, sections=2, purity=0.9, seed=2)
    band = (data.obsm["spatial"][:, 1] * 3).astype(int)
    assert (data.obs["domain"] == [f"domain{b}" for b in band]).all()
    same = (data.obs["cell_type"].str[4:] == data.obs["domain"].astype(str).str[6:]).mean()
    assert same == pytest.approx(0.9 + 0.1 / 3, abs=0.04)
    assert data.obs["section"].value_counts().to_dict() == {"section0": 300, "section1": 300}
    assert set(zip(data.obs["section"], data.obs["batch"], strict=True)) == {
        ("section0", "batch0"),
        ("section1", "batch1"),
    }
    cells = Fields("counts", batch="batch", label="domain", spatial="spatial", section="section").read(data)
    assert cells.graph.nnz == 3600
    assert "spatial" not in simulated().obsm


def test_simulated_is_its_seed_and_touches_no_global_generator():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    a, b, c = simulated(seed=1), simulated(seed=1), simulated(seed=2)
    assert (a.X != b.X).nnz == 0
    assert a.obs.equals(b.obs)
    assert (a.X != c.X).nnz > 0
    assert (before == np.random.get_state()[1]).all()  # noqa: NPY002


def test_simulated_defaults_read_without_a_warning():
    for seed in range(5):
        Fields("counts", batch="batch", label="cell_type").read(simulated(seed=seed))


def test_highly_variable_genes_are_those_that_differ(blood):
    data = simulated(cells=400, genes=100, difference=0.0, batch_effect=0.0, seed=0)
    x = data.X.toarray()
    x[:200, :10] *= 8  # ten genes that half of the cells have much more of
    data.X = sparse.csr_matrix(x)
    kept = data.copy()
    assert set(highly_variable(data, 10)) == set(data.var_names[:10])
    assert data.var.equals(kept.var)
    assert data.uns == kept.uns
    batch, kind = np.arange(400) % 2, np.arange(400) // 2 % 2
    rate = np.full((400, 100), 5.0)
    rate[kind == 1, :10] = 15
    rate[batch == 1, 90:] = 40  # more variable still, but between batches only
    obs = pd.DataFrame({"batch": batch.astype(str)}, index=data.obs_names)
    data = AnnData(np.random.default_rng(0).poisson(rate).astype(np.float32), obs=obs, var=data.var)
    assert set(highly_variable(data, 10)) == set(data.var_names[90:])
    assert set(highly_variable(data, 10, batch="batch")) == set(data.var_names[:10])
    chosen = highly_variable(blood, 200, counts="counts", batch="phase")
    assert len(chosen) == 200
    assert list(chosen) == [gene for gene in blood.var_names if gene in chosen]
    assert Fields("counts", genes=chosen).read(blood).x.shape == (700, 200)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.5])
def test_variable_genes_are_chosen_among_counts_only(value):
    data = simulated(cells=50, genes=20, seed=1)
    x = data.X.toarray()
    x[7, 3] = value
    data.layers["counts"] = x
    with pytest.raises(ValueError, match=r"layer 'counts' holds values that are not counts.* 'gene3' in cell 'cell7'"):
        highly_variable(data, 5, counts="counts")
    with pytest.raises(KeyError, match=r"obs has no column 'donor' \(batch\)"):
        highly_variable(data, 5, batch="donor")


def test_variable_genes_of_repeated_names_can_be_read():
    data = simulated(cells=50, genes=20, seed=1)
    data.var_names = ["A", "A", *data.var_names[2:]]
    with pytest.warns(UserWarning, match="names of several genes are numbered"):
        assert Fields(genes=highly_variable(data, 20)).read(data).genes[:2] == ("A", "A-1")


def test_choosing_genes_gives_threads_and_generators_back(monkeypatch):
    choose = sc.experimental.pp.highly_variable_genes

    def compiled(*args, **kwargs):  # as numba does when scanpy's functions are compiled
        torch.set_num_threads(2)
        np.random.seed(3)  # noqa: NPY002
        return choose(*args, **kwargs)

    monkeypatch.setattr(sc.experimental.pp, "highly_variable_genes", compiled)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    highly_variable(simulated(cells=50, genes=20), 5)
    assert torch.get_num_threads() == 1
    assert (before == np.random.get_state()[1]).all()  # noqa: NPY002


def test_variable_genes_of_seurat_are_chosen_on_request(blood):
    chosen = highly_variable(blood, 50, counts="counts", flavor="seurat_v3")
    assert len(chosen) == 50
    assert chosen != highly_variable(blood, 50, counts="counts")
    table = sc.pp.highly_variable_genes(blood, flavor="seurat_v3", n_top_genes=50, layer="counts", inplace=False)
    assert chosen == tuple(blood.var_names[table["highly_variable"]])
