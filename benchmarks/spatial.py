"""Tissue domains from a latent space: a guide that reads neighbours, guides that read single cells, and PCA.

    python benchmarks/spatial.py starmap.h5ad --label domain --section section --out results

The model is always SCVI with an NB likelihood. Neighbours help to read a cell, but the density of its counts does not
depend on them, so a latent state need not be similar to those around it. The rows "averaged over neighbours" show the
effect of simple smoothing.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
from common import agreement, publish, read

import pyroscvi as ps
from pyroscvi.guides import FullCovariance, MeanField, SpatialGNN
from pyroscvi.models import SCVI
from pyroscvi.parts import NB
from pyroscvi.parts.neighbours import ReadNeighbours

GUIDES = {
    "MeanField": MeanField(),
    "FullCovariance": FullCovariance(),
    "SpatialGNN": SpatialGNN(),
    "SpatialGNN, 2 hops": SpatialGNN(encoder=ReadNeighbours(hops=2)),
}


def principal_components(adata, seed: int) -> np.ndarray:
    """20 principal components of log(1 + x), with x scaled to the median total."""
    scaled = adata.copy()
    sc.pp.normalize_total(scaled)
    sc.pp.log1p(scaled)
    return sc.pp.pca(scaled.X, n_comps=20, random_state=seed)


def smoothed(latent: np.ndarray, cells: ps.Cells) -> np.ndarray:
    """Mean latent state of every cell and its neighbours."""
    joined = (cells.graph > 0).astype(float)
    joined.setdiag(1)
    return joined @ latent / np.asarray(joined.sum(1)).reshape(-1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an h5ad with counts in X and coordinates in obsm['spatial']")
    parser.add_argument("--label", required=True, help="column of obs: the domain")
    parser.add_argument("--section", required=True, help="column of obs: the section; it is the batch as well")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    adata = read(options.data)
    cells = ps.Fields(batch=options.section, spatial="spatial", section=options.section).read(adata)
    train, held_out = cells.split(0.1, by="batch")
    labels = adata.obs[options.label].astype(str).to_numpy()
    rows = []
    for seed in range(options.seeds):
        latents, evidence = {"PCA": principal_components(adata, seed)}, {}
        for name, guide in GUIDES.items():
            fit = ps.fit(SCVI(likelihood=NB()), guide, train, epochs=options.epochs, seed=seed, progress=False)
            latents[name] = fit.latent(cells)
            evidence[name] = float(ps.log_evidence(fit, held_out).mean())
        for name, latent in latents.items():
            for where, z in {name: latent, f"{name}, averaged over neighbours": smoothed(latent, cells)}.items():
                scores = {key: value for key, value in agreement(z, labels).items() if not key.endswith("sd")}
                rows.append({"latent": where, "evidence": evidence.get(where, np.nan), **scores})
                print(seed, rows[-1], flush=True)
    grouped = pd.DataFrame(rows).groupby("latent", sort=False)
    table = grouped.mean().join(grouped.std(ddof=0), rsuffix=" sd").sort_index(axis=1)
    about = {name: str(value) for name, value in vars(options).items()}
    publish(table, options.out, f"spatial-{options.data.stem}", about)


if __name__ == "__main__":
    main()
