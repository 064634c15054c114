"""Tissue domains from a latent space: a guide that reads a cell with its neighbours, ones that read it alone, PCA.

    python benchmarks/spatial.py starmap.h5ad --label domain --section section --out results

The model is SCVI with an NB likelihood throughout. A neighbour helps to read a cell and is no part of its counts'
density, so nothing obliges a latent state to be like those around it: rows "averaged over neighbours" say how far plain
smoothing gets.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
from common import agreement, markdown, read, write

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
    """20 components of log(1 + x), with x scaled to the median total."""
    scaled = adata.copy()
    sc.pp.normalize_total(scaled)
    sc.pp.log1p(scaled)
    return sc.pp.pca(scaled.X, n_comps=20, random_state=seed)


def smoothed(latent: np.ndarray, cells: ps.Cells) -> np.ndarray:
    """The mean of every cell and its neighbours."""
    joined = (cells.graph > 0).astype(float)
    joined.setdiag(1)
    return joined @ latent / np.asarray(joined.sum(1)).reshape(-1, 1)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("data", type=Path, help="an h5ad with counts in X and coordinates in obsm['spatial']")
    ask.add_argument("--label", required=True, help="column of obs: the domain")
    ask.add_argument("--section", required=True, help="column of obs: the section; it is the batch as well")
    ask.add_argument("--epochs", type=int, default=100)
    ask.add_argument("--seeds", type=int, default=3)
    ask.add_argument("--out", type=Path, default=Path("results"))
    said = ask.parse_args()
    warnings.simplefilter("ignore")

    adata = read(said.data)
    cells = ps.Fields(batch=said.section, spatial="spatial", section=said.section).read(adata)
    train, held_out = cells.split(0.1, by="batch")
    labels = adata.obs[said.label].astype(str).to_numpy()
    rows = []
    for seed in range(said.seeds):
        latents, evidence = {"PCA": principal_components(adata, seed)}, {}
        for name, guide in GUIDES.items():
            fit = ps.fit(SCVI(likelihood=NB()), guide, train, epochs=said.epochs, seed=seed, progress=False)
            latents[name] = fit.latent(cells)
            evidence[name] = float(ps.log_evidence(fit, held_out).mean())
        for name, latent in latents.items():
            for where, z in {name: latent, f"{name}, averaged over neighbours": smoothed(latent, cells)}.items():
                scores = {key: value for key, value in agreement(z, labels).items() if not key.endswith("sd")}
                rows.append({"latent": where, "evidence": evidence.get(where, np.nan), **scores})
                print(seed, rows[-1], flush=True)
    grouped = pd.DataFrame(rows).groupby("latent", sort=False)
    table = grouped.mean().join(grouped.std(ddof=0), rsuffix=" sd").sort_index(axis=1)
    about = {name: str(value) for name, value in vars(said).items()}
    write(said.out, f"spatial-{said.data.stem}", table, about)
    print(markdown(table))


if __name__ == "__main__":
    main()
