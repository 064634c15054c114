"""Differential expression on simulated donors whose truth is known.

    python benchmarks/differential.py --seeds 6

Donors differ in every gene and in where their cells lie in state space, as real donors do. All methods see the same
cells of 4 treated and 4 untreated donors:

    pyroscvi         fit.differential(donor=...)
    limma            sums of each donor, log counts per million, moderated t-test [Smyth, 2004]; not the R package
    t-test           the same sums, Welch's t-test
    DESeq2           the same sums, by pydeseq2, where it is installed [Love et al., 2014]
    Wilcoxon         of normalised cells, as scanpy's rank_genes_groups: cells are the unit
    scvi-tools       differential expression of its SCVI (mode "change"), where it is installed: cells are the unit
    pyroscvi, cells  fit.differential without donors: cells are the unit

null    share of the genes that are called where nothing changes, at a (false discovery) rate of 5%
power   share of genes with a true change among the best genes of the method's own ranking, as many as hold 5% genes
        without one: every method at the same true error rate
fdp     share of false discoveries among the genes that are called at 5%: no change at all, or for pyroscvi none beyond
        ``delta``, which is what it claims
cover   share of genes whose true log2 ratio lies in the 90% interval
"""

import argparse
import warnings
from importlib.util import find_spec

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse, stats

import pyroscvi as ps
from pyroscvi.analysis.shrinkage import moderated
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB

GENES, STATES, THETA, SIZE = 600, 5, 3.0, 1_500.0


def donors(seed: int, changed: float, per_group: int = 4, cells: int = 80, spread: float = 0.2) -> AnnData:
    """Cells of ``2 * per_group`` donors, half of them treated; ``changed`` is the share of genes that respond.

    log share = base_g + L_g z_n + donor_dg + treated_d effect_g,   z_n ~ Normal(centre_d, 1)
    """
    rng = np.random.default_rng(seed)
    base, loadings = rng.normal(0, 1.2, GENES), rng.normal(0, 0.35, (STATES, GENES))
    effect = np.where(rng.uniform(size=GENES) < changed, rng.normal(0, 0.7, GENES), 0.0)
    n_donors = 2 * per_group
    sizes = rng.poisson(cells * rng.lognormal(0, 0.4, n_donors)) + 10
    donor = np.repeat(np.arange(n_donors), sizes)
    treated = donor % 2
    of_donor = spread * rng.normal(size=(n_donors, GENES))
    z = rng.normal(size=(n_donors, STATES))[donor] * 0.4 + rng.normal(size=(len(donor), STATES))
    eta = base + z @ loadings + of_donor[donor] + treated[:, None] * effect
    share = np.exp(eta)
    share /= share.sum(1, keepdims=True)
    mean = rng.lognormal(np.log(SIZE), 0.3, len(donor))[:, None] * share
    counts = rng.poisson(rng.gamma(THETA, mean / THETA)).astype(np.float32)
    seen = counts.sum(0) >= 20
    obs = pd.DataFrame(
        {
            "donor": pd.Categorical([f"d{d}" for d in donor]),
            "condition": pd.Categorical(np.where(treated, "treated", "control")),
        },
        index=[f"cell{i}" for i in range(len(donor))],
    )
    var = pd.DataFrame({"effect": effect / np.log(2)}, index=[f"g{i}" for i in range(GENES)])
    return AnnData(sparse.csr_matrix(counts), obs, var)[:, seen].copy()


def pseudobulk(adata: AnnData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log2 counts per million of the donors' sums [d, g], whether a donor is treated [d], and log-mean weights."""
    sums = np.stack(
        [np.asarray(adata[adata.obs["donor"] == d].X.sum(0)).ravel() for d in adata.obs["donor"].cat.categories]
    )
    treated = adata.obs.groupby("donor", observed=True)["condition"].first().eq("treated").to_numpy()
    return np.log2((sums + 0.5) / (sums.sum(1, keepdims=True) + 1) * 1e6), treated, sums


def limma(adata: AnnData) -> np.ndarray:
    """p-values of a moderated t-test of the sums of donors."""
    y, treated, _ = pseudobulk(adata)
    df = len(y) - 2
    residual = sum(((y[side] - y[side].mean(0)) ** 2).sum(0) for side in (treated, ~treated)) / df
    variance, freedom = moderated(residual, df)
    error = np.sqrt(variance * (1 / treated.sum() + 1 / (~treated).sum()))
    return 2 * stats.t.sf(np.abs((y[treated].mean(0) - y[~treated].mean(0)) / error), freedom)


def welch(adata: AnnData) -> np.ndarray:
    y, treated, _ = pseudobulk(adata)
    return stats.ttest_ind(y[treated], y[~treated], equal_var=False).pvalue


def wilcoxon(adata: AnnData) -> np.ndarray:
    x = adata.X.toarray()
    x = np.log1p(x / x.sum(1, keepdims=True) * 1e4)
    treated = (adata.obs["condition"] == "treated").to_numpy()
    return stats.mannwhitneyu(x[treated], x[~treated], method="asymptotic").pvalue


def deseq2(adata: AnnData) -> np.ndarray:
    """p-values of DESeq2 for the sums of donors; 1 where it gives none."""
    from pydeseq2.dds import DeseqDataSet
    from pydeseq2.ds import DeseqStats

    _, treated, sums = pseudobulk(adata)
    names = [f"donor{d}" for d in range(len(sums))]
    condition = pd.DataFrame({"condition": np.where(treated, "treated", "control")}, names)
    counts = pd.DataFrame(sums.astype(int), names, adata.var_names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = DeseqDataSet(counts=counts, metadata=condition, design="~condition", quiet=True)
        data.deseq2()
        result = DeseqStats(data, contrast=["condition", "treated", "control"], quiet=True)
        result.summary()
    return result.results_df["pvalue"].fillna(1.0).to_numpy()


def scvi_tools(adata: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """The probability of no change of every gene, and whether it is called at a false discovery rate of 5%."""
    import scvi

    scvi.settings.seed = 0
    copy = adata.copy()
    scvi.model.SCVI.setup_anndata(copy)
    model = scvi.model.SCVI(copy, gene_likelihood="nb")
    model.train(max_epochs=60, accelerator="cpu", enable_progress_bar=False, logger=False)
    table = model.differential_expression(
        groupby="condition", group1="treated", group2="control", mode="change", fdr_target=0.05, silent=True
    )
    table = table.loc[adata.var_names]
    return 1 - table["proba_de"].to_numpy(), table["is_de_fdr_0.05"].to_numpy()


def power(score: np.ndarray, changed: np.ndarray) -> float:
    """Share of the changed genes among the best ones, as many as hold at most 5% others; low scores are best."""
    right = changed[np.argsort(score, kind="stable")]
    allowed = np.flatnonzero(np.cumsum(~right) / np.arange(1, len(right) + 1) <= 0.05)
    return float(right[: allowed[-1] + 1].sum() / changed.sum()) if len(allowed) else 0.0


def scores(adata: AnnData, delta: float = 0.25) -> pd.DataFrame:
    """A row for each method."""
    effect, fit = (
        adata.var["effect"].to_numpy(),
        ps.fit(SCVI(likelihood=NB()), MeanField(), ps.Fields().read(adata), epochs=60, progress=False),
    )
    control = adata.X[(adata.obs["condition"] == "control").to_numpy()].toarray()
    share = (control / control.sum(1, keepdims=True)).mean(0)
    truth = effect - np.log2((share * 2**effect).sum() / share.sum())  # of shares, which sum to one
    rows = {}
    for name, donor in (("pyroscvi", "donor"), ("pyroscvi, cells", None)):
        how = {"groups": "treated", "reference": "control", "donor": donor, "delta": delta, "progress": False}
        table = fit.differential(adata, "condition", **how).set_index("gene").loc[adata.var_names]
        called, ranked = table["changed"].to_numpy(), -(table["estimate"] / table["standard_error"]).abs().to_numpy()
        inside = ((table["low"] <= truth) & (truth <= table["high"])).mean()
        rows[name] = {
            "called": called.mean(),
            "score": ranked,
            "false": called & (np.abs(truth) <= delta),
            "cover": inside,
        }
    methods = {"limma": limma, "t-test": welch, "Wilcoxon": wilcoxon}
    if find_spec("pydeseq2"):
        methods["DESeq2"] = deseq2
    for name, method in methods.items():
        p = method(adata)
        called = stats.false_discovery_control(p) <= 0.05
        rows[name] = {"called": called.mean(), "score": p, "false": called & (effect == 0), "cover": np.nan}
    if find_spec("scvi"):
        p, called = scvi_tools(adata)
        rows["scvi-tools"] = {"called": called.mean(), "score": p, "false": called & (effect == 0), "cover": np.nan}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["power"] = [power(score, effect != 0) if effect.any() else np.nan for score in table.pop("score")]
    table["fdp"] = [
        false.sum() / max(round(row * len(effect)), 1) for row, false in table[["called", "false"]].to_numpy()
    ]
    return table.drop(columns="false")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--cells", type=int, nargs="+", default=[25, 100], help="cells of a donor")
    asked = parser.parse_args()
    for cells in asked.cells:
        null = pd.concat([scores(donors(seed, 0.0, cells=cells))["called"] for seed in range(asked.seeds)], axis=1)
        score = sum(scores(donors(100 + seed, 0.2, cells=cells)) for seed in range(asked.seeds)) / asked.seeds
        print(f"{cells} cells of a donor\n{score.assign(null=null.mean(axis=1)).round(3).to_string()}\n", flush=True)
