"""How a fit is trained: held-out evidence and ELBO, their scatter between seeds, and processor time.

    python benchmarks/recipe.py kang.h5ad --batch sample_id --seeds 5 --out results
    python benchmarks/recipe.py kang.h5ad --batch sample_id --only today "half the epochs"

A tenth of the cells is held out, the same for all fits. Every row changes one thing of the recipe that ``fit`` has by
default, or one slot of the model. "before" is the recipe of earlier versions: a constant rate, no prior of weights,
dispersions at the rate of the weights, and the state with the best held-out ELBO. All with latent sizes, on one thread.
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from common import publish, read

import pyroscvi as ps
from pyroscvi.fitting.fit import default_epochs
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.inference import run
from pyroscvi.inference.schedules import CosineDecay
from pyroscvi.models import SCVI
from pyroscvi.parts import MLP, NB, ZINB, FlatWeights, LatentSize, Mixture, NormalWeights, PerGene, Poisson


class Row(NamedTuple):
    """A variant: the slots of ``SCVI``, the guide, and the settings of ``fit``."""

    slots: dict[str, Any] = {}
    guide: Any = MeanField()
    settings: dict[str, Any] = {}
    single: tuple[float, float] = (run.SINGLE_RATE, run.SINGLE_EPS)


def rows(epochs: int) -> dict[str, Row]:
    flat = {"decoder": MLP(weights=FlatWeights())}
    constant = CosineDecay(end=1.0)
    before = {"lr": 3e-3, "decay": constant, "early_stopping": True, "epochs": max(400, 2 * epochs)}
    return {
        "before": Row(flat, settings=before, single=(1.0, run.EPS)),
        "today": Row(),
        "half the epochs": Row(settings={"epochs": epochs // 2}),
        "twice the epochs": Row(settings={"epochs": 2 * epochs}),
        "constant rate": Row(settings={"decay": constant}),
        "no prior of weights": Row(flat),
        "prior of weights: s = 0.5": Row({"decoder": MLP(weights=NormalWeights(s=0.5))}),
        "prior of weights: s = 2": Row({"decoder": MLP(weights=NormalWeights(s=2.0))}),
        "dispersions at the rate of weights": Row(single=(1.0, run.EPS)),
        "log theta starts at 3": Row({"likelihood": NB(dispersion=PerGene(start=3.0))}),
        "rate 3e-3": Row(settings={"lr": 3e-3}),
        "Poisson": Row({"likelihood": Poisson()}),
        "ZINB": Row({"likelihood": ZINB()}),
        "five dimensions": Row({"latent": 5}),
        "twenty dimensions": Row({"latent": 20}),
        "mixture of eight": Row({"prior": Mixture(8)}),
        "full covariance": Row(guide=FullCovariance()),
    }


@contextmanager
def rate_of_dispersions(rate: float, eps: float) -> Iterator[None]:
    before = run.SINGLE_RATE, run.SINGLE_EPS
    run.SINGLE_RATE, run.SINGLE_EPS = rate, eps
    try:
        yield
    finally:
        run.SINGLE_RATE, run.SINGLE_EPS = before


def measured(row: Row, train: ps.Cells, held_out: ps.Cells, score: int, seed: int) -> dict[str, float]:
    model = SCVI(**{"likelihood": NB(), "size": LatentSize(), **row.slots})
    began = time.process_time()
    with rate_of_dispersions(*row.single):
        fit = ps.fit(model, row.guide, train, seed=seed, progress=False, **row.settings)
    seconds = time.process_time() - began
    scored = held_out.subset(torch.linspace(0, len(held_out) - 1, min(score, len(held_out))).long())
    elbo = run.evaluate(fit.model, fit.guide, scored, len(train), seed=0)
    evidence = ps.log_evidence(fit, scored, progress=False).mean()
    return {"evidence": float(evidence), "elbo": elbo, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an h5ad with counts in X")
    parser.add_argument("--batch", help="column of obs")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--score", type=int, default=100, help="held-out cells to score")
    parser.add_argument("--only", nargs="*", help="names of rows")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    cells = ps.Fields(batch=options.batch).read(read(options.data, options.batch, options.genes))
    train, held_out = cells.split(0.1, by="batch" if options.batch else None, seed=0)
    table: dict[str, dict[str, float]] = {}
    for name, row in rows(default_epochs(len(train))).items():
        if options.only and name not in options.only:
            continue
        runs = pd.DataFrame([measured(row, train, held_out, options.score, seed) for seed in range(options.seeds)])
        mean, sd = runs.mean(), runs.std()
        table[name] = {
            "evidence": mean["evidence"], "evidence sd": sd["evidence"], "ELBO": mean["elbo"], "ELBO sd": sd["elbo"],
            "gap": mean["evidence"] - mean["elbo"], "processor s": mean["seconds"],
        }  # fmt: skip
        print(f"{name}: " + ", ".join(f"{column} {value:.2f}" for column, value in table[name].items()), flush=True)
    published = pd.DataFrame(table).T.rename_axis("recipe")
    publish(published, options.out, f"recipe-{options.data.stem}", {k: str(v) for k, v in vars(options).items()})


if __name__ == "__main__":
    main()
