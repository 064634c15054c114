"""Errors of every estimator on every problem with a known evidence.

    python benchmarks/evidence.py [--problems nb zinb-mixture] [--cells 32] [--seed 0]
    python benchmarks/evidence.py --data cells.h5ad [--batch sample_id] [--epochs 60] [--tolerance 0.05]

For each problem a guide is trained briefly on cells of the problem, and the estimators score other cells. A row of the
first table is a problem, with mean and worst error of every estimator in nats. A row of the second table is an
estimator, over all cells of all problems: mean and worst error, the share of cells whose error is below two of their
standard errors, milliseconds a cell, and the rung of the ladder on which the cells stayed.

With ``--data``: cells a second until the standard error of each is within the tolerance, on 100 held-out cells, under a
normal and a mixture prior, in single precision with the kernel in C++ and in double precision without it. Beside it are
the products of the decoder's last layer for each cell, and the cells a second that these products alone would allow.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from common import measured_with

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from reference.problems import PROBLEMS, amortised

import pyroscvi as ps
from pyroscvi.evidence import Adaptive, Annealed, Importance, Ladder, Reader, Refined, evidences
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, LatentSize, Mixture, StandardNormal

ESTIMATORS = {
    "screen": (Importance(), 1000),
    "refined": (Importance(Refined()), 10_000),
    "adaptive": (Importance(Adaptive()), 1000),
    "annealed": (Annealed(), 1),
    "auto": (Ladder(), 10_000),
    "auto, to report": (Ladder(tolerance=0.01), 20_000),
}


def scored(
    problem: str, estimators: Iterable[str] = ESTIMATORS, n: int = 32, seed: int = 0, **room: Any
) -> dict[str, pd.DataFrame]:
    """Evidence table of every estimator for the first n cells of a problem, with their errors and the seconds a cell.

    ``room`` has options of ``Reader`` for the size of minibatches and chunks.
    """
    known = PROBLEMS[problem](288)
    pair, unseen = amortised(known, steps=200)
    cells, tables = unseen.subset(torch.arange(n)), {}
    for estimator in estimators:
        chosen, particles = ESTIMATORS[estimator]
        start = time.process_time()
        table = evidences(Reader(pair, cells, **room), particles, seed, estimator=chosen).table
        table["seconds"] = (time.process_time() - start) / n
        table["error"] = table["log_evidence"] - known.exact[:n].numpy()
        tables[estimator] = table
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="*", default=[""], help="problems whose name contains one of these texts")
    parser.add_argument("--estimators", nargs="*", default=list(ESTIMATORS), choices=list(ESTIMATORS))
    parser.add_argument("--cells", type=int, default=32, help="at most 32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help="an h5ad file: cells a second to a given error, in place of the problems")
    parser.add_argument("--batch", help="a column of its obs")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--tolerance", type=float, default=0.05, help="standard error of a cell, in nats")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.data:
        table = speed(options.data, options.batch, options.epochs, options.tolerance, options.seed)
        print(f"{table.to_string(index=False)}\n\n{measured_with()}")
        return
    chosen = [name for name in PROBLEMS if any(part in name for part in options.problems)]
    print("| problem | " + " | ".join(options.estimators) + " |\n|" + "---|" * (len(options.estimators) + 1))
    by_estimator: dict[str, list[pd.DataFrame]] = {name: [] for name in options.estimators}
    for name in chosen:
        line = []
        for estimator, table in scored(name, options.estimators, options.cells, options.seed).items():
            by_estimator[estimator].append(table)
            line.append(f"{table['error'].mean():.4f}, {table['error'].abs().max():.3f}")
        print(f"| {name} | " + " | ".join(line) + " |", flush=True)
    print(
        "\n| estimator | mean error | worst | within 2 s.e. | k-hat above 0.7 | ms a cell | stayed on |\n|" + "---|" * 7
    )
    for estimator, tables in by_estimator.items():
        print(f"| {estimator} | " + " | ".join(summary(pd.concat(tables))) + " |")
    print(f"\n{measured_with()}")


def speed(data: str, batch: str | None, epochs: int, tolerance: float, seed: int) -> pd.DataFrame:
    """Cells a second of one thread until every standard error is within the tolerance, model by model."""
    cells = ps.Fields(batch=batch).read(anndata.read_h5ad(data))
    train, held_out = cells.split(0.1, seed=seed)
    held_out = held_out.subset(torch.arange(min(100, len(held_out))))
    rows = []
    for name, prior in (("normal", StandardNormal()), ("mixture:8", Mixture(components=8))):
        page = SCVI(likelihood=NB(), size=LatentSize(), prior=prior)
        fit = ps.fit(page, MeanField(), train, epochs=epochs, seed=seed, progress=False)
        for dtype, compile in ((torch.float32, True), (torch.float64, False)):
            reader = Reader(fit, held_out, dtype=dtype, compile=compile)
            layer = reader.model.decoder.heads["rho"]
            products: list[int] = []  # a draw with its gradient takes two
            hook = layer.register_forward_hook(
                lambda _, __, out, products=products: products.append(out.shape[:-1].numel() << out.requires_grad)
            )
            with reader.kernel():  # compiled before the clock starts
                floor = seconds_of_product(layer)
            products.clear()
            start = time.process_time()
            table = evidences(reader, seed=seed, estimator=Ladder(tolerance=tolerance), progress=False).table
            seconds = time.process_time() - start
            hook.remove()
            rows.append(
                {
                    "prior": name,
                    "precision": str(dtype).removeprefix("torch."),
                    "C++": compile,
                    "cells a second": len(table) / seconds,
                    "products a cell": sum(products) / len(table),
                    "of products alone": len(table) / (floor * sum(products)),
                    "mean evidence": table["log_evidence"].mean(),
                    "largest standard error": table["monte_carlo_se"].max(),
                }
            )
    return pd.DataFrame(rows).round(3)


def seconds_of_product(layer: torch.nn.Linear, rows: int = 4096, turns: int = 5) -> float:
    """Processor time of one row of a product with the weights of this layer."""
    h, times = torch.ones(rows, layer.in_features, dtype=layer.weight.dtype), []
    for _ in range(turns):
        start = time.process_time()
        torch.nn.functional.linear(h, layer.weight, layer.bias)
        times.append((time.process_time() - start) / rows)
    return float(np.median(times))


def summary(table: pd.DataFrame) -> list[str]:
    covered = np.mean(table["error"].abs() < 2 * table["monte_carlo_se"])
    rungs = ", ".join(f"{method} {count}" for method, count in Counter(table["method"]).most_common())
    return [
        f"{table['error'].mean():.4f}",
        f"{table['error'].abs().max():.3f}",
        f"{covered:.1%} of {len(table)}",
        f"{np.mean(table['k_hat'] > 0.7):.1%}",
        f"{1000 * table['seconds'].mean():.0f}",
        rungs,
    ]


if __name__ == "__main__":
    main()
