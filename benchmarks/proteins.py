"""Surface proteins predicted from RNA, beside the mean of the nearest cells.

    python benchmarks/proteins.py pbmc10k_5k_totalvi.h5ad

Two batches of blood cells, of which the second has no proteins in this file. So the proteins of a random third of the
first batch are hidden, and predicted from the RNA of these cells. Both batches are fitted together. The baseline is the
mean count of the nearest cells with proteins, in 20 principal components of log-normalised RNA. Scores are Pearson
correlations, over the hidden cells, of log(1 + prediction) and log(1 + count), protein by protein.
"""

import argparse
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from sklearn.neighbors import NearestNeighbors

import pyroscvi as ps
from pyroscvi.guides import MeanField
from pyroscvi.models import Proteins


def nearest(adata: ad.AnnData, known: np.ndarray, hidden: np.ndarray, neighbours: int) -> np.ndarray:
    """Mean protein counts of the nearest cells with known proteins, for the hidden cells [hidden, p]."""
    logs = adata.copy()
    sc.pp.normalize_total(logs)
    sc.pp.log1p(logs)
    sc.pp.pca(logs, n_comps=20, random_state=0)
    places = logs.obsm["X_pca"]
    index = NearestNeighbors(n_neighbors=neighbours).fit(places[known]).kneighbors(places[hidden])[1]
    return adata.obsm["protein_counts"][known][index].mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an h5ad with counts in X, obsm['protein_counts'] and uns as described")
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--neighbours", type=int, default=20)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    adata = ad.read_h5ad(options.data)
    adata = adata[:, adata.var["hvg_rank"] < options.genes].copy()
    truth = adata.obsm["protein_counts"].copy()
    has = ~np.isnan(truth).any(1)
    batch = adata.obs["batch"][has].iloc[0]
    hidden = has & (np.random.default_rng(options.seed).random(len(has)) < 1 / 3)
    adata.obsm["protein_counts"][hidden] = np.nan
    known = has & ~hidden

    names = tuple(name.removesuffix("_TotalSeqB") for name in adata.uns["protein_names"])
    cells = ps.Fields(batch="batch", proteins="protein_counts", protein_names=names).read(adata, empty="drop")
    started = time.process_time()
    fit = ps.fit(Proteins(), MeanField(), cells, epochs=options.epochs, seed=options.seed, progress=False)
    seconds = time.process_time() - started
    tables = fit.proteins(cells.subset(torch.as_tensor(hidden)), given={"batch": str(batch)})
    predictions = {
        "proteins": tables.expected.to_numpy(),
        f"mean of {options.neighbours} nearest cells": nearest(adata, known, hidden, options.neighbours),
    }
    logs = np.log1p(truth[hidden])
    scores = pd.DataFrame(
        {
            name: [np.corrcoef(np.log1p(value)[:, j], logs[:, j])[0, 1] for j in range(logs.shape[1])]
            for name, value in predictions.items()
        },
        index=list(names),
    )
    scores.loc["mean"] = scores.mean()
    print(f"{known.sum():,} cells with proteins, {hidden.sum():,} hidden, {(~has).sum():,} of another batch")
    print(scores.round(3).to_string())
    errors = {name: np.abs(np.log1p(value) - logs).mean() for name, value in predictions.items()}
    print("mean absolute error of log(1 + count):", {name: round(float(error), 3) for name, error in errors.items()})
    print(f"{len(fit.history)} epochs, {seconds:.0f} s of processor time")


if __name__ == "__main__":
    main()
