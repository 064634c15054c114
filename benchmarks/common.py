"""What the benchmarks share: reading a data set, clustering a latent space, writing a table down."""

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from anndata import AnnData
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

__all__ = ["agreement", "clusterings", "read", "write"]


def read(path: Path, batch: str | None = None, genes: int = 2000) -> AnnData:
    """All cells of an h5ad, at its most variable genes by Pearson residuals (within batches, where there are any)."""
    adata = ad.read_h5ad(path)
    if adata.n_vars > genes:
        sc.experimental.pp.highly_variable_genes(adata, n_top_genes=genes, batch_key=batch)
        adata = adata[:, adata.var["highly_variable"]]
    return adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()


def clusterings(latent: np.ndarray, kinds: int, seeds: int = 5) -> dict[str, list[np.ndarray]]:
    """k-means with the true number of kinds, and Leiden at resolution 1 on 15 neighbours, with every seed."""
    points = AnnData(obsm={"latent": latent}, obs=pd.DataFrame(index=map(str, range(len(latent)))))
    threads = torch.get_num_threads()
    sc.pp.neighbors(points, use_rep="latent")
    torch.set_num_threads(threads)  # numba has changed it for the whole process
    found: dict[str, list[np.ndarray]] = {"k-means": [], "Leiden": []}
    for seed in range(seeds):
        found["k-means"].append(KMeans(kinds, n_init=10, random_state=seed).fit_predict(latent))
        sc.tl.leiden(points, random_state=seed, flavor="igraph", n_iterations=2, directed=False)
        found["Leiden"].append(points.obs["leiden"].to_numpy())
    return found


def agreement(latent: np.ndarray, labels: np.ndarray, seeds: int = 5) -> dict[str, float]:
    """ARI and NMI of clusterings of the latent space with the labels: mean and sd over seeds of the clustering."""
    row = {}
    for method, clusters in clusterings(latent, len(np.unique(labels)), seeds).items():
        for name, score in {"ARI": adjusted_rand_score, "NMI": normalized_mutual_info_score}.items():
            values = [score(labels, found) for found in clusters]
            row |= {f"{method} {name}": float(np.mean(values)), f"{method} {name} sd": float(np.std(values))}
    return row


def write(folder: Path, name: str, table: pd.DataFrame, about: dict) -> None:
    """``name.json`` and ``name.md`` in the folder: the table, how it was made, when, and with what versions."""
    folder.mkdir(parents=True, exist_ok=True)
    packages = ("pyroscvi", "torch", "pyro-ppl", "scvi-tools", "scanpy", "scikit-learn", "numpy")
    about |= {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "python": platform.python_version()}
    about["versions"] = {package: version(package) for package in packages}
    rows = json.loads(table.reset_index().to_json(orient="records", double_precision=6))
    (folder / f"{name}.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    (folder / f"{name}.md").write_text(markdown(table) + "\n")


def markdown(table: pd.DataFrame) -> str:
    """The table with ``x ± sd`` for every pair of columns ``x`` and ``x sd``."""
    shown = pd.DataFrame(index=table.index)
    for column in table.columns.drop([c for c in table.columns if c.endswith(" sd")]):
        digits = 2 if table[column].abs().max() >= 10 else 3
        text = table[column].map(lambda value, d=digits: "" if pd.isna(value) else f"{value:.{d}f}")
        if f"{column} sd" in table:
            sd = table[f"{column} sd"].map(lambda value, d=digits: "" if pd.isna(value) else f" ± {value:.{d}f}")
            text = text + sd
        shown[column] = text
    header = [table.index.name or "", *shown.columns]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join([str(name), *row]) + " |" for name, row in zip(shown.index, shown.values, strict=True)]
    return "\n".join(lines)
