"""Differential expression on simulated donors whose truth is known, and on real donors split at random.

    python -m benchmarks.differential                about ten minutes on one core; writes differential.md

Donors differ in every gene and in where their cells lie in state space, as real donors do. Methods see the same cells:

    pyroscvi       fit.differential(donor=...)
    pseudobulk     sums of each donor, log counts per million, moderated t-test [limma-trend, Ritchie et al., 2015]
    t-test         the same sums, Welch's t-test
    Wilcoxon       of normalised cells, as scanpy's rank_genes_groups: cells are the unit
    pyroscvi, cells  fit.differential without donors: cells are the unit

"null" is the share of genes called at a nominal rate where nothing changes between two groups of donors. "power" is the
share of genes with a true change that are found, at a true false discovery rate of 5%: among the best genes of the
method's own ranking, as many as hold 5% false ones.
"""

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse, stats

from pyroscvi.analysis.shrinkage import moderated

GENES, STATES, THETA, SIZE = 600, 5, 3.0, 1_500.0


def donors(seed: int, changed: float, per_group: int = 4, cells: int = 80, spread: float = 0.25) -> AnnData:
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
