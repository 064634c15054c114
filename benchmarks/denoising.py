"""Denoised rates scored by molecules that the fit has not seen, beside simple predictions.

    python benchmarks/denoising.py kang_ifnb_muscat.h5ad --batch sample_id

Every molecule of every cell is held out with the probability 1/2 (binomial thinning) [Batson et al., 2019]. Of counts
that are Poisson given a rate, both halves are independent given that rate, so no prediction of the held-out half can
profit from the noise of the other. A prediction is a share of every gene in every cell; it is scored by the mean
log-probability of a held-out molecule, in nats: the multinomial log-likelihood without its constant, over the number of
molecules.

    average     the average profile of all cells
    own counts  the profile of the cell itself, with a weight of the average profile that is chosen by the score
    neighbours  sums over the 15 nearest cells in 20 principal components of log counts, and the average likewise
    pyroscvi    fit.denoise(library=1), for several likelihoods
    scvi-tools  its SCVI with the same data, where it is installed

The standard error is over cells, of the difference to the first fit.

References
    Batson, J., Royer, L. & Webber, J. (2019) Molecular cross-validation for single-cell RNA-seq. bioRxiv 786269.
    doi:10.1101/786269
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from common import read
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import pyroscvi as ps
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, ZINB, Nothing, OneHot, Poisson

WEIGHTS = np.geomspace(1, 1000, 13)  # counts' worth of the average profile


def thinned(counts: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of the molecules of every cell [n, g]."""
    seen = np.random.default_rng(seed).binomial(counts.astype(int), 0.5)
    return seen, counts - seen


def score(share: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Mean log-probability of a held-out molecule of each cell [n]."""
    log_share = np.log(share / share.sum(1, keepdims=True) + 1e-12)
    return (held_out * log_share).sum(1) / np.maximum(held_out.sum(1), 1)


def smoothed(sums: np.ndarray, held_out: np.ndarray, average: np.ndarray) -> np.ndarray:
    """The score of sums of counts with the weight of the average profile that scores best."""
    return max((score(sums + weight * average, held_out) for weight in WEIGHTS), key=np.mean)


def of_neighbours(seen: np.ndarray, k: int = 15) -> np.ndarray:
    """Counts summed over the nearest cells, the cell itself included [n, g]."""
    log = np.log1p(seen / np.maximum(seen.sum(1, keepdims=True), 1) * 1e4)
    z = PCA(min(20, *log.shape), random_state=0).fit_transform(log)
    near = NearestNeighbors(n_neighbors=min(k, len(z))).fit(z).kneighbors(return_distance=False, X=z)
    return seen[near].sum(1)


def of_scvi(adata: AnnData, batch: str | None, epochs: int | None) -> np.ndarray:
    import scvi

    scvi.settings.seed = 0
    scvi.model.SCVI.setup_anndata(adata, batch_key=batch)
    model = scvi.model.SCVI(adata, gene_likelihood="nb")
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, logger=False)
    return model.get_normalized_expression(n_samples=10, return_numpy=True)


def main(file: Path, batch: str | None, genes: int, cells: int | None, epochs: int | None) -> pd.DataFrame:
    adata = read(file, batch, genes)
    if cells is not None and cells < adata.n_obs:
        adata = adata[np.sort(np.random.default_rng(0).choice(adata.n_obs, cells, replace=False))].copy()
    counts = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
    seen, held_out = thinned(counts, 0)
    kept = seen.sum(1) > 0
    seen, held_out, adata = seen[kept].astype(np.float32), held_out[kept], adata[kept].copy()
    adata.X, adata.layers = sparse.csr_matrix(seen), {}
    read_cells = ps.Fields(batch=batch).read(adata)
    condition = Nothing() if batch is None else OneHot("batch")
    scores = {}
    for name, likelihood in (("nb", NB()), ("poisson", Poisson()), ("zinb", ZINB())):
        page = SCVI(likelihood=likelihood, condition=condition)
        fit = ps.fit(page, MeanField(), read_cells, epochs=epochs, progress=False)
        scores[f"pyroscvi, {name}"] = score(fit.denoise(read_cells, library=1.0), held_out)
    average = np.repeat((seen.sum(0) / seen.sum())[None], len(seen), 0)
    scores["average"] = score(average, held_out)
    scores["own counts"] = smoothed(seen, held_out, average)
    scores["neighbours"] = smoothed(of_neighbours(seen), held_out, average)
    if find_spec("scvi"):
        scores["scvi-tools"] = score(of_scvi(adata, batch, epochs), held_out)
    first = next(iter(scores.values()))
    rows = {
        name: (value.mean(), (value - first).mean(), (value - first).std(ddof=1) / np.sqrt(len(value)))
        for name, value in scores.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["nats a molecule", "difference", "standard error"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--batch")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--cells", type=int, help="a random subset")
    parser.add_argument("--epochs", type=int)
    asked = parser.parse_args()
    print(main(asked.file, asked.batch, asked.genes, asked.cells, asked.epochs).round(4).to_string())
