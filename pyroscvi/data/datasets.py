"""Data sets: real cells that come with scanpy, and simulated ones whose truth is known."""

import warnings
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from pyroscvi.advice import either
from pyroscvi.data.checks import counts_of
from pyroscvi.data.columns import codes, column
from pyroscvi.data.genes import numbered
from pyroscvi.data.process import process_kept


def pbmc68k_reduced() -> AnnData:
    """700 blood cells by 765 genes: counts, and ten cell types in ``obs["bulk_labels"]`` [Zheng et al., 2017].

    scanpy carries this data set as logarithms of counts per 10,000 (``raw.X``), rounded to three decimals, beside the
    total count of every cell: counts are ``round(expm1(raw.X) * n_counts / 1e4)`` and nothing is lost by the rounding.
    They are in X and in ``layers["counts"]``. ``obs["n_counts"]`` is the total over all genes, of which these 765 are a
    part; a size factor, therefore, that does not come from the modelled counts.

    References
        Zheng, G. X. Y. et al. (2017) Massively parallel digital transcriptional profiling of single cells. Nat
        Commun 8, 14049. doi:10.1038/ncomms14049
    """
    import scanpy

    processed = scanpy.datasets.pbmc68k_reduced()
    counts, _ = recovered(processed)
    return AnnData(
        X=counts,
        layers={"counts": counts.copy()},
        obs=processed.obs[["bulk_labels", "n_counts", "n_genes", "percent_mito", "phase", "louvain"]].copy(),
        var=pd.DataFrame(index=processed.raw.var_names.copy()),
        obsm={"X_pca": processed.obsm["X_pca"].copy(), "X_umap": processed.obsm["X_umap"].copy()},
        uns={"source": "scanpy.datasets.pbmc68k_reduced, from 10x Genomics' fresh 68k PBMCs (donor A)"},
    )


def recovered(processed: AnnData) -> tuple[sparse.csr_matrix, float]:
    """Counts from ``raw.X = log1p(1e4 x / n_counts)``, and how far the worst of them was from a whole number."""
    logs = sparse.csr_matrix(processed.raw.X, dtype=np.float64)
    cell = np.repeat(np.arange(logs.shape[0]), np.diff(logs.indptr))
    values = np.expm1(logs.data) * processed.obs["n_counts"].to_numpy(dtype=np.float64)[cell] / 1e4
    rounded = values.round()
    deviation = float(np.abs(values - rounded).max())
    counts = sparse.csr_matrix((rounded.astype(np.float32), logs.indices, logs.indptr), shape=logs.shape)
    counts.eliminate_zeros()
    return counts, deviation


def simulated(
    cells: int = 300, genes: int = 60, types: int = 3, batches: int = 2, *, sections: int = 0, difference: float = 1.0,
    batch_effect: float = 0.3, theta: float = 5.0, size: float = 500.0, purity: float = 0.85, seed: int = 0,
) -> AnnData:  # fmt: skip
    """Cells of known types with negative binomial counts; in tissue with known domains if there are ``sections``.

        type ~ Categorical(1 / types)
        batch ~ Categorical(1 / batches)
        size ~ LogNormal(log size, 0.3)
        share = softmax(base_g + difference * a_(type, g) + batch_effect * c_(batch, g)),    a, c ~ Normal(0, 1)
        x ~ NB(size * share, theta)

    Each section is a unit square cut into as many bands as there are types (the domains); a cell has its band's own
    type with probability ``purity``, otherwise of any. Its batch is then its section's.

    The truth comes along: ``obs`` has cell_type, batch, size (and section, domain), ``layers["mean"]`` the mean of
    every count, ``varm["log_share"]`` the log share of every gene by type, ``uns["theta"]`` the inverse dispersion.
    Counts are CSR in X and in ``layers["counts"]``. ``seed`` alone decides; no global generator is touched.
    """
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 1, genes)
    by_type = base + difference * rng.normal(size=(types, genes))
    by_batch = batch_effect * rng.normal(size=(batches, genes))
    obs, obsm = pd.DataFrame(index=[f"cell{n}" for n in range(cells)]), {}
    kind, batch = rng.integers(types, size=cells), rng.integers(batches, size=cells)
    if sections:
        section = np.arange(cells) * sections // cells
        place = rng.uniform(size=(cells, 2))
        domain = (place[:, 1] * types).astype(int)
        kind = np.where(rng.uniform(size=cells) < purity, domain, kind)
        batch = section % batches
        obsm["spatial"] = place
        obs["section"] = pd.Categorical([f"section{s}" for s in section])
        obs["domain"] = pd.Categorical([f"domain{d}" for d in domain])
    eta = by_type[kind] + by_batch[batch]
    share = np.exp(eta - eta.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    sizes = rng.lognormal(np.log(size), 0.3, cells)
    mean = sizes[:, None] * share
    counts = sparse.csr_matrix(rng.poisson(rng.gamma(theta, mean / theta)).astype(np.float32))
    obs["cell_type"] = pd.Categorical([f"type{k}" for k in kind])
    obs["batch"] = pd.Categorical([f"batch{b}" for b in batch])
    obs["size"] = sizes
    log_share = by_type - np.log(np.exp(by_type).sum(1, keepdims=True))
    return AnnData(
        X=counts, layers={"counts": counts.copy(), "mean": mean}, obs=obs,
        var=pd.DataFrame(index=[f"gene{g}" for g in range(genes)]), obsm=obsm, varm={"log_share": log_share.T},
        uns={"theta": theta},
    )  # fmt: skip


Flavor = Literal["pearson_residuals", "seurat_v3"]


def highly_variable(
    adata: AnnData, n: int = 2000, counts: str | None = None, batch: str | None = None,
    flavor: Flavor = "pearson_residuals",
) -> tuple[str, ...]:  # fmt: skip
    """Names of the ``n`` most variable genes, as ``adata`` orders them.

    Scanpy's ``highly_variable_genes`` on counts (a layer; None is X), within batches (a column of obs) where one is
    named: by the variance of Pearson residuals [Lause et al., 2021], or of standardised counts ("seurat_v3" [Stuart et
    al., 2019]). Every count is checked first: one NaN would change which genes are chosen. The AnnData is not changed:
    ``Fields(genes=highly_variable(adata), ...)``.
    """
    import scanpy

    if n < 1:
        raise ValueError(f"at least one gene must be chosen, not {n}")
    names, _ = numbered(adata.var_names)
    matrix = counts_of(adata, counts, np.arange(adata.n_vars), names)
    obs = pd.DataFrame(index=adata.obs_names.astype(str))
    if batch is not None:
        levels, _ = codes(column(adata.obs, batch, "batch"), f"batch (obs[{batch!r}])")
        obs["batch"] = pd.Categorical(levels)
    copied = AnnData(matrix, obs=obs, var=pd.DataFrame(index=names))
    kwargs: dict[str, Any] = {"n_top_genes": n, "batch_key": None if batch is None else "batch", "inplace": False}
    choose = scanpy.pp if flavor == "seurat_v3" else scanpy.experimental.pp
    with process_kept(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique")
        warnings.filterwarnings("ignore", "The inplace keyword", DeprecationWarning)  # scanpy's own use of pandas
        try:
            table = choose.highly_variable_genes(copied, flavor=flavor, **kwargs)
        except ValueError as error:  # of the local regression, in scikit-misc
            if "singularities" not in str(error):
                raise
            instead = either("flavor='pearson_residuals'", "--hvg-by pearson_residuals")
            raise ValueError(
                f"seurat_v3 finds no trend of variances in {len(names)} genes: choose {instead}"
            ) from error
    return tuple(names[table["highly_variable"].to_numpy()])
