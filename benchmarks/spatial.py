"""Tissue domains from k-means: of principal components averaged over neighbours, of latents, and of a smooth field.

    python benchmarks/spatial.py starmap.h5ad --label domain --section section --out results

The model is always SCVI with an NB likelihood. Under StandardNormal its states do not know the tissue. Under the
prior Field they have a smooth part, whose strength and lengthscale are learned. The floor costs nothing: 20 principal
components of log counts, averaged over a cell and its k nearest neighbours. Cells without a label are left out of the
score. The page Domains needs no k-means. "given others" is the evidence of a tenth of the cells given the others, with
the field and with strength 0.
"""

import argparse
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
from common import publish, read
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import pyroscvi as ps
from pyroscvi.data.graph import nearest
from pyroscvi.guides import MeanField, SpatialGNN
from pyroscvi.models import SCVI, Domains
from pyroscvi.parts import NB, Field, StandardNormal

GUIDES = {"MeanField": MeanField(), "SpatialGNN": SpatialGNN()}
UNKNOWN = ("nan", "None", "NA", "undetermined", "unknown")


def principal_components(adata, seed: int) -> np.ndarray:
    """20 principal components of log(1 + x), with x scaled to the median total."""
    scaled = adata.copy()
    sc.pp.normalize_total(scaled)
    sc.pp.log1p(scaled)
    return sc.pp.pca(scaled.X, n_comps=20, random_state=seed)


def averaged(z: np.ndarray, places: np.ndarray, section: np.ndarray, k: int) -> np.ndarray:
    """The mean of z over every cell and its k nearest neighbours in its section."""
    joined = sparse.identity(len(z), format="csr")
    if k:
        neighbours = nearest(places, k, section)
        neighbours.data[:] = 1.0
        joined = joined + neighbours
    return joined @ z / np.asarray(joined.sum(1)).reshape(-1, 1)


def domains(z: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Clusters of all cells by k-means, as many as there are known labels."""
    kinds = len(set(labels) - set(UNKNOWN))
    return KMeans(kinds, n_init=10, random_state=seed).fit_predict(z)


def agreement(found: np.ndarray, labels: np.ndarray) -> float:
    """ARI of a grouping with the known labels."""
    known = ~np.isin(labels, UNKNOWN)
    return float(adjusted_rand_score(labels[known], found[known]))


def score(z: np.ndarray, labels: np.ndarray) -> float:
    """ARI with the labels, the mean over five seeds of k-means."""
    return float(np.mean([agreement(domains(z, labels, seed), labels) for seed in range(5)]))


def draw(places: np.ndarray, section: np.ndarray, groups: dict[str, np.ndarray], file: Path) -> None:
    """One row for each section, one column for each grouping of the cells."""
    levels = np.unique(section)
    figure, axes = plt.subplots(len(levels), len(groups), figsize=(4 * len(groups), 2.2 * len(levels)), squeeze=False)
    for row, level in enumerate(levels):
        own = section == level
        for ax, (name, group) in zip(axes[row], groups.items(), strict=True):
            ax.scatter(*places[own].T, c=pd.factorize(group, sort=True)[0][own], cmap="tab10", vmin=0, vmax=9, s=4)
            ax.set(xticks=[], yticks=[], aspect="equal", title=name if row == 0 else "")
    figure.savefig(file, dpi=110, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an h5ad with counts in X and coordinates in obsm['spatial']")
    parser.add_argument("--label", required=True, help="column of obs: the domain")
    parser.add_argument("--section", help="column of obs: the section; it is the batch as well")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--predecessors", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--guides", nargs="+", choices=list(GUIDES), default=["MeanField"])
    parser.add_argument("--domains", action="store_true", help="also fit the page domains, which needs no k-means")
    parser.add_argument("--evidence", action="store_true", help="also score a tenth of the cells given the others")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    adata = read(options.data)
    where = {"spatial": "spatial", "section": options.section, "batch": options.section}
    cells = ps.Fields(**where, predecessors=options.predecessors).read(adata)
    labels = adata.obs[options.label].astype(str).to_numpy()
    places = np.asarray(adata.obsm["spatial"], dtype=float)
    section = pd.factorize(adata.obs[options.section])[0] if options.section else np.zeros(len(adata), dtype=int)
    rows, groups = [], {"label": labels}
    for seed in range(options.seeds):
        z = principal_components(adata, seed)
        latents = {f"PCA, mean over {k} neighbours": averaged(z, places, section, k) for k in (0, 6, 12, 18, 30)}
        for name in options.guides:
            for prior in (StandardNormal(), Field()):
                fit = ps.fit(
                    SCVI(prior=prior, likelihood=NB()), GUIDES[name], cells, epochs=options.epochs, seed=seed,
                    progress=False,
                )  # fmt: skip
                latents[f"{name}, {prior!r}"] = fit.latent(cells)
                if isinstance(prior, Field):
                    latents[f"{name}, {prior!r}, smooth field"] = fit.smooth_field(cells)
                    for word, values in {"strengths": prior_of(fit).strengths, "r": prior_of(fit).lengthscales}.items():
                        print(word, np.round(values.detach().numpy(), 2), flush=True)
        if options.domains:
            kinds = len(set(labels) - set(UNKNOWN))
            fit = ps.fit(Domains(domains=kinds), MeanField(), cells, epochs=options.epochs, seed=seed, progress=False)
            rows.append(
                {"latent": "Domains", "k-means ARI": agreement(fit.domains(cells).to_numpy().argmax(1), labels)}
            )
            print(seed, rows[-1], flush=True)
        for name, latent in latents.items():
            rows.append({"latent": name, "k-means ARI": score(latent, labels)})
            print(seed, rows[-1], flush=True)
        groups = {"label": labels, "k-means of the smooth field": domains(latents[name], labels, 0)}
    if options.evidence:
        print(gain(cells, options.epochs))
    grouped = pd.DataFrame(rows).groupby("latent", sort=False)
    table = grouped.mean().join(grouped.std(ddof=0), rsuffix=" sd")
    about = {name: str(value) for name, value in vars(options).items()}
    publish(table, options.out, f"spatial-{options.data.stem}", about)
    draw(places, section, groups, options.out / f"spatial-{options.data.stem}.png")


def prior_of(fit: ps.Fit) -> Field:
    return fit.model.prior


def gain(cells: ps.Cells, epochs: int) -> str:
    """What space explains of held-out cells, given the others: mean and standard error over cells, in nats."""
    train, held_out = cells.split(0.1, seed=0)
    scores = []
    for strength in (0.5, 0.0):
        model = SCVI(prior=Field(strength=strength), likelihood=NB())
        fit = ps.fit(model, MeanField(), train, epochs=epochs, progress=False)
        scores.append(ps.log_evidence(fit, held_out, progress=False))
    difference = scores[0] - scores[1]
    error = difference.std() / len(difference) ** 0.5
    return f"given others: {difference.mean():.3f} ± {error:.3f} nats a cell more than with strength 0"


if __name__ == "__main__":
    main()
