"""Genes that were not measured: latents of cells with 30% of the genes, and fits to cells of two panels.

    python benchmarks/missing_genes.py pbmc3k_10x.h5ad --label cell_type --out results --picture docs/missing_genes.png

A fit to all genes reads held-out cells with 30% of them, drawn at random three times, and is compared with its own
latents of the same cells with all genes. Then half of the training cells lose these genes, and two data sets become one
fit: where genes count as zero, where they are left out, and where the encoder is also told the data set of a cell.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from common import publish, read
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

import pyroscvi as ps
from pyroscvi.guides import MeanField
from pyroscvi.inference.evaluation import evaluate
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, OneHot, ReadCell
from pyroscvi.report.embedding import embedding, projection

SHARE, DRAWS, NEIGHBOURS = 0.3, 3, 15


def clusters(z: np.ndarray, kinds: int) -> list[np.ndarray]:
    return [KMeans(kinds, n_init=10, random_state=seed).fit_predict(z) for seed in range(3)]


def agreement(z: np.ndarray, whole: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Latents z of some genes against those of all, each [n, d]."""
    kinds = len(np.unique(labels))
    of_z, of_whole = clusters(z, kinds), clusters(whole, kinds)
    return {
        "correlation": np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(z.T, whole.T, strict=True)]),
        "distance": np.linalg.norm(z - whole, axis=1).mean() / np.linalg.norm(whole - whole.mean(0), axis=1).mean(),
        "ARI, clusters of all genes": np.mean([adjusted_rand_score(a, b) for a in of_whole for b in of_z]),
        "ARI, labels": np.mean([adjusted_rand_score(labels, b) for b in of_z]),
    }


def panel(adata: AnnData, seed: int) -> AnnData:
    """The cells with 30% of the genes."""
    return adata[:, np.random.default_rng(seed).random(adata.n_vars) < SHARE].copy()


def queries(fit: ps.Fit, train: AnnData, held_out: AnnData, label: str) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Latents of held-out cells with some of the genes, in four ways; and those of the first draw of genes."""
    labels = held_out.obs[label].astype(str).to_numpy()
    whole, rows, first = fit.latent(held_out), [], {}
    for seed in range(DRAWS):
        few = panel(held_out, seed)
        own, trained = (fit.fields.read(some, missing="marginalise") for some in (few, panel(train, seed)))
        began = time.process_time()
        to_own = fit.adapted(own, progress=False)
        middle = time.process_time()
        to_trained = fit.adapted(trained, progress=False)
        seconds = {
            "adapted to these cells": middle - began,
            "adapted to the training cells": time.process_time() - middle,
        }
        z = {
            "counted as zero": fit.latent(fit.fields.read(few, missing="zero")),
            "left out": fit.latent(own),
            "adapted to these cells": to_own.latent(own),
            "adapted to the training cells": to_trained.latent(own),
        }
        rows += [
            {"genes": name, **agreement(of, whole, labels), "seconds": seconds.get(name, 0)} for name, of in z.items()
        ]
        first = first or {"all genes": whole, **z}
        print(pd.DataFrame(rows[-4:]).round(3).to_string(), flush=True)
        if seed == 0:
            for name, cells in {"all genes": fit.fields.read(held_out), "30% of the genes": own}.items():
                print(f"{name}: {ps.certify(fit, cells)}", flush=True)
    return pd.DataFrame(rows).groupby("genes", sort=False).mean(), first


def unions(train: AnnData, held_out: AnnData, label: str) -> pd.DataFrame:
    """Fits to cells of which every second one has 30% of the genes."""
    halves = {"all": train[::2].copy(), "some": panel(train[1::2], 0)}
    labels = np.concatenate([half.obs[label].astype(str) for half in halves.values()])
    of_half = np.repeat([0, 1], [half.n_obs for half in halves.values()])
    fields = ps.Fields(categories="half")
    for name, half in halves.items():
        half.obs["half"] = name
    told = ReadCell(condition=OneHot("half"))
    rows = {}
    encoders = {"counted as zero": ReadCell(), "left out": ReadCell(), "left out, encoder told": told}
    for name, encoder in encoders.items():
        cells = fields.read(halves, genes="union", missing="zero" if name == "counted as zero" else "error")
        fit = ps.fit(SCVI(likelihood=NB()), MeanField(encoder=encoder), cells, seed=0, progress=False)
        z = fit.latent(cells)
        near = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(z).kneighbors(z, return_distance=False)[:, 1:]
        others = held_out.copy()
        others.obs["half"] = "all"
        whole = fit.fields.read(others)
        rows[name] = {
            "neighbours of the other half": (of_half[near] != of_half[:, None]).mean(),
            "ARI, labels": np.mean([adjusted_rand_score(labels, c) for c in clusters(z, len(np.unique(labels)))]),
            "ELBO, other cells": evaluate(fit.model, fit.guide, whole, len(cells), seed=0),
        }
        print(name, rows[name], flush=True)
    return pd.DataFrame(rows).T.rename_axis("genes")


def picture(latents: dict[str, np.ndarray], labels: np.ndarray, path: Path) -> None:
    """All latents on one UMAP."""
    shown = {name: z for name, z in latents.items() if name != "adapted to the training cells"}
    xy = np.split(projection(np.concatenate(list(shown.values()))), len(shown))
    figure = Figure(figsize=(11, 3), dpi=110, layout="constrained")
    for ax, name, points in zip(figure.subplots(1, len(shown), sharex=True, sharey=True), shown, xy, strict=True):
        embedding(points, labels, ax=ax, legend=name == list(shown)[-1])
        ax.set_title(name, fontsize=9)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an h5ad with counts in X")
    parser.add_argument("--label", default="cell_type", help="column of obs")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    adata = read(options.data, None, options.genes)
    held = np.random.default_rng(0).random(adata.n_obs) < 0.2
    train, held_out = adata[~held].copy(), adata[held].copy()
    fit = ps.fit(SCVI(likelihood=NB()), MeanField(), ps.Fields().read(train), seed=0, progress=False)
    about = {k: str(v) for k, v in vars(options).items()}
    of_queries, latents = queries(fit, train, held_out, options.label)
    publish(of_queries, options.out, f"missing-genes-{options.data.stem}", dict(about))
    if options.picture:
        picture(latents, held_out.obs[options.label].astype(str).to_numpy(), options.picture)
    publish(unions(train, held_out, options.label), options.out, f"two-panels-{options.data.stem}", dict(about))


if __name__ == "__main__":
    main()
