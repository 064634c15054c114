"""How well latent spaces keep types apart and mix batches: the defaults of SCVI here and in scvi-tools.

    pip install -e ".[bench]" scib-metrics
    python benchmarks/latents.py pbmc3k.h5ad --label cell_type
    python benchmarks/latents.py pbmc10k.h5ad --label cell_type --batch batch --cells 3000

All models see the same cells and genes. The number of epochs is the default of each library, and so is everything else.
Principal components of log counts are shown beside them.

    k-means, Leiden   adjusted Rand index (ARI) and normalised mutual information (NMI) with the labels, mean of five
                      seeds of the clustering
    bio conservation  mean of the scores of scib-metrics for types [Luecken et al., 2022], where it is installed
    batch correction  mean of its scores for batches, where there are batches
    seconds           of training, processor time

References
    Luecken, M. D. et al. (2022) Benchmarking atlas-level data integration in single-cell genomics. Nat Methods 19, 41.
    doi:10.1038/s41592-021-01336-8
"""

import argparse
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from common import agreement, publish, read

import pyroscvi as ps
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB


def components(adata: AnnData, batch: str | None, seed: int) -> np.ndarray:
    """Ten principal components of log counts."""
    import scanpy as sc

    copy = adata.copy()
    sc.pp.normalize_total(copy)
    sc.pp.log1p(copy)
    return sc.pp.pca(copy.X, n_comps=10, random_state=seed)


def ours(adata: AnnData, batch: str | None, seed: int) -> np.ndarray:
    cells = ps.Fields(batch=batch).read(adata)
    return ps.fit(SCVI(likelihood=NB()), MeanField(), cells, seed=seed, progress=False).latent(cells)


def theirs(adata: AnnData, batch: str | None, seed: int) -> np.ndarray:
    import scvi

    scvi.settings.seed = seed
    copy = adata.copy()
    scvi.model.SCVI.setup_anndata(copy, batch_key=batch)
    model = scvi.model.SCVI(copy)
    model.train(accelerator="cpu", enable_progress_bar=False, logger=False)
    return model.get_latent_representation()


def scib(latents: dict[str, np.ndarray], labels: np.ndarray, batches: np.ndarray | None) -> pd.DataFrame:
    """Mean scores of scib-metrics for types and for batches, a row for each latent space."""
    from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation

    one = np.zeros(len(labels), int) if batches is None else batches
    obs = pd.DataFrame({"label": labels, "batch": one}, index=map(str, range(len(labels)))).astype("category")
    points = AnnData(np.zeros((len(labels), 1), np.float32), obs, obsm=latents)
    correction = None if batches is None else BatchCorrection()
    how = {"bio_conservation_metrics": BioConservation(), "batch_correction_metrics": correction, "n_jobs": 1}
    how |= {"pre_integrated_embedding_obsm_key": next(iter(latents)), "progress_bar": False}
    scored = Benchmarker(points, "batch", "label", list(latents), **how)
    scored.benchmark()
    table = scored.get_results(min_max_scale=False)
    wanted = [name for name in ("Bio conservation", "Batch correction") if name in table]
    return table.loc[list(latents), wanted].astype(float).rename(columns=str.lower)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an h5ad with counts in X")
    parser.add_argument("--label", required=True, help="column of obs with the types")
    parser.add_argument("--batch", help="column of obs")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--cells", type=int, help="a random subset")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")

    adata = read(asked.data, asked.batch, asked.genes)
    adata = adata[adata.obs[asked.label].notna()]
    if asked.cells is not None and asked.cells < adata.n_obs:
        adata = adata[np.sort(np.random.default_rng(asked.seed).choice(adata.n_obs, asked.cells, replace=False))]
    adata = adata.copy()
    labels = adata.obs[asked.label].astype(str).to_numpy()
    models: dict[str, Callable] = {"principal components": components, "SCVI": ours}
    if find_spec("scvi"):
        models["scvi-tools"] = theirs
    latents, rows = {}, {}
    for name, model in models.items():
        began = time.process_time()
        latents[name] = model(adata, asked.batch, asked.seed)
        seconds = time.process_time() - began
        rows[name] = {**agreement(latents[name], labels), "seconds": seconds}
        print(name, f"{seconds:.0f} s", flush=True)
    table = pd.DataFrame(rows).T
    if find_spec("scib_metrics"):
        batches = None if asked.batch is None else adata.obs[asked.batch].astype(str).to_numpy()
        table = table.join(scib(latents, labels, batches))
    table.index.name = f"{asked.data.stem}, {adata.n_obs:,} cells, {adata.n_vars:,} genes"
    publish(table, asked.out, f"latents-{asked.data.stem}", {name: str(value) for name, value in vars(asked).items()})


if __name__ == "__main__":
    main()
