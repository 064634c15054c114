"""Cell types from ten labels a type: our pages and SCANVI of scvi-tools, scored on the cells without a label.

    pip install -e ".[bench]"
    python benchmarks/annotation.py pbmc_facs.h5ad --label cell_type --out results

SCANVI is used as in its tutorial: first SCVI, then SCANVI from it, with 100 labelled cells of each type in every epoch.
Calibration is the log loss and the expected calibration error of the largest probability (15 bins of equal width).
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from common import publish, read
from sklearn.metrics import accuracy_score, f1_score, log_loss

import pyroscvi as ps
from pyroscvi import models
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.inference.objectives import Classifier
from pyroscvi.models import Annotated

HIDDEN = "unknown"


def hide(labels: np.ndarray, keep: int, seed: int) -> np.ndarray:
    """Labels of ``keep`` random cells of every type; all other labels are replaced by ``HIDDEN``."""
    rng = np.random.default_rng(seed)
    shown = np.full(len(labels), HIDDEN, dtype=object)
    for kind in np.unique(labels):
        shown[rng.choice(np.flatnonzero(labels == kind), keep, replace=False)] = kind
    return shown


def scanvi(adata: AnnData, epochs: int, seed: int) -> pd.DataFrame:
    import scvi

    scvi.settings.seed = seed
    how = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    scvi.model.SCVI.setup_anndata(adata, labels_key="shown")
    start = scvi.model.SCVI(adata, gene_likelihood="nb")
    start.train(epochs, **how)
    model = scvi.model.SCANVI.from_scvi_model(start, unlabeled_category=HIDDEN)
    model.train(max(epochs // 4, 20), n_samples_per_label=100, **how)
    return model.predict(adata, soft=True)


def annotated(adata: AnnData, epochs: int, seed: int, page=Annotated, guide=None, objectives=()) -> pd.DataFrame:
    cells = ps.Fields(label="shown", unlabelled=HIDDEN).read(adata)
    fit = ps.fit(page(), guide or MeanField(), cells, epochs=epochs, seed=seed, objectives=objectives, progress=False)
    return fit.probabilities(cells, "y")


WAYS = {
    "SCANVI": scanvi,
    "Annotated, MeanField": annotated,
    "Annotated, FullCovariance": lambda *about: annotated(*about, guide=FullCovariance()),
    "Annotated, MeanField, Classifier": lambda *about: annotated(*about, objectives=[Classifier(10.0)]),
    "scanvi page, MeanField": lambda *about: annotated(*about, page=models.SCANVI),
    "scanvi page, MeanField, Classifier": lambda *about: annotated(
        *about, page=models.SCANVI, objectives=[Classifier(10.0)]
    ),
}


def calibration_error(probabilities: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Mean over cells of |accuracy - confidence| of the bin of the cell's confidence [Guo et al., 2017]."""
    confidence = probabilities.max(1)
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs((right - confidence)[bin_of == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(right))


def scores(probabilities: pd.DataFrame, labels: np.ndarray) -> dict[str, float]:
    probabilities = probabilities[sorted(probabilities.columns)]  # log_loss needs this order
    p = probabilities.to_numpy(dtype=float)
    p = p / p.sum(1, keepdims=True)
    predicted = probabilities.columns.to_numpy()[p.argmax(1)]
    return {
        "accuracy": accuracy_score(labels, predicted),
        "macro F1": f1_score(labels, predicted, average="macro"),
        "log loss": log_loss(labels, np.clip(p, 1e-12, 1), labels=list(probabilities.columns)),
        "calibration error": calibration_error(p, (predicted == labels).astype(float)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an h5ad with counts in X")
    parser.add_argument("--label", required=True, help="column of obs: the type of every cell")
    parser.add_argument("--keep", type=int, default=10, help="labels of each type that are not hidden")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    adata = read(options.data)
    labels = adata.obs[options.label].astype(str).to_numpy()
    rows = []
    for seed in range(options.seeds):
        adata.obs["shown"] = hide(labels, options.keep, seed)
        hidden = (adata.obs["shown"] == HIDDEN).to_numpy()
        for name in options.ways:
            began = time.monotonic()
            probabilities = WAYS[name](adata.copy(), options.epochs, seed)
            seconds = time.monotonic() - began
            rows.append({"model": name, **scores(probabilities[hidden], labels[hidden]), "seconds": seconds})
            print(seed, rows[-1], flush=True)
    grouped = pd.DataFrame(rows).groupby("model", sort=False)
    table = grouped.mean().join(grouped.std(ddof=0).drop(columns="seconds"), rsuffix=" sd")
    about = {name: str(value) for name, value in vars(options).items()}
    publish(table, options.out, f"annotation-{options.data.stem}", about)


if __name__ == "__main__":
    main()
