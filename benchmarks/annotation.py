"""Cell types from ten labels a type: our pages and SCANVI of scvi-tools, scored on the cells without a label.

    pip install -e ".[bench]"
    python benchmarks/annotation.py pbmc_facs_zheng2017.h5ad --label cell_type --out results

Every run is one line of a .jsonl file in the folder, and lines that are there are not computed again: a run that was
stopped goes on where it was. A seed takes some minutes of one core; all ways of a seed come before the next seed.
SCANVI is used as in its tutorial: first SCVI, then SCANVI from it, with 100 labelled cells of each type in every epoch.
Calibration is the log loss and the expected calibration error of the largest probability (15 bins of equal width).
"""

import argparse
import json
import time
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
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
    print("SCVI is trained, SCANVI follows", flush=True)
    model = scvi.model.SCANVI.from_scvi_model(start, unlabeled_category=HIDDEN)
    model.train(max(epochs // 4, 20), n_samples_per_label=100, **how)
    return model.predict(adata, soft=True)


def annotated(adata: AnnData, epochs: int, seed: int, page=Annotated, guide=None, objectives=()) -> pd.DataFrame:
    cells = ps.Fields(label="shown", unlabelled=HIDDEN).read(adata)
    fit = ps.fit(page(), guide or MeanField(), cells, epochs=epochs, seed=seed, objectives=objectives)
    return fit.probabilities(cells, "y")


WAYS = {
    "SCANVI": scanvi,
    "annotated, Classifier": lambda *about: annotated(*about, objectives=[Classifier(10.0)]),
    "scanvi page, Classifier": lambda *about: annotated(*about, page=models.SCANVI, objectives=[Classifier(10.0)]),
    "annotated": annotated,
    "scanvi page": lambda *about: annotated(*about, page=models.SCANVI),
    "annotated, FullCovariance": lambda *about: annotated(*about, guide=FullCovariance()),
}
QUICK = list(WAYS)[:3]


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
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=QUICK)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    adata = read(options.data, genes=options.genes)
    labels = adata.obs[options.label].astype(str).to_numpy()
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"annotation-{options.data.stem}-{options.genes}-{options.epochs}-{options.keep}"
    file = options.out / f"{name}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["model"], row["seed"]) for row in rows}
    for seed, way in product(range(options.seeds), options.ways):
        if (way, seed) in done:
            continue
        print(f"{way}, seed {seed}", flush=True)
        adata.obs["shown"] = hide(labels, options.keep, seed)
        hidden = (adata.obs["shown"] == HIDDEN).to_numpy()
        began = time.process_time()
        probabilities = WAYS[way](adata.copy(), options.epochs, seed)
        seconds = time.process_time() - began
        row = {"model": way, "seed": seed, **scores(probabilities[hidden], labels[hidden]), "processor s": seconds}
        rows.append(row)
        with file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        print(row, flush=True)
    grouped = pd.DataFrame(rows).drop(columns="seed").groupby("model", sort=False)
    table = grouped.mean().join(grouped.std().drop(columns="processor s"), rsuffix=" sd").assign(seeds=grouped.size())
    publish(table, options.out, name, {key: str(value) for key, value in vars(options).items()})


if __name__ == "__main__":
    main()
