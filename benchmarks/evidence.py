"""Every estimator of an evidence, on every problem whose evidence is known.

    python benchmarks/evidence.py [--problems nb zinb-mixture] [--cells 32] [--seed 0]

For each problem a guide is trained for a moment on cells of the problem; the estimators see other cells. A line of the
first table is a problem, with mean and worst error of every estimator in nats; a line of the second an estimator, over
all cells of all problems: mean and worst error, how many cells lie within two of the standard errors that it reports,
seconds a cell, and which rung of the ladder they stayed on.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from reference.problems import PROBLEMS, amortised

from pyroscvi.evidence import Adaptive, Annealed, Importance, Ladder, Refined, evidence_table

ESTIMATORS = {
    "screen": (Importance(), 1000),
    "refined": (Importance(Refined()), 10_000),
    "adaptive": (Importance(Adaptive()), 1000),
    "annealed": (Annealed(), 1),
    "auto": (Ladder(), 1000),
    "auto, to report": (Ladder(tolerance=0.015, more=2), 10_000),
}


def scored(
    problem: str, estimators: Iterable[str] = ESTIMATORS, n: int = 32, seed: int = 0, **room: Any
) -> dict[str, pd.DataFrame]:
    """What estimators say of the first n cells of a problem, their errors, and the seconds that a cell took.

    ``room`` is how much there is at once, as ``evidence_table`` takes it.
    """
    known = PROBLEMS[problem](288)
    pair, unseen = amortised(known, steps=200)
    cells, found = unseen.subset(torch.arange(n)), {}
    for estimator in estimators:
        chosen, particles = ESTIMATORS[estimator]
        start = time.process_time()
        table = evidence_table(pair, cells, particles, seed, estimator=chosen, **room)
        table["seconds"] = (time.process_time() - start) / n
        table["error"] = table["log_evidence"] - known.exact[:n].numpy()
        found[estimator] = table
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="*", default=[""], help="those whose name has one of these in it")
    parser.add_argument("--estimators", nargs="*", default=list(ESTIMATORS), choices=list(ESTIMATORS))
    parser.add_argument("--cells", type=int, default=32, help="at most 32")
    parser.add_argument("--seed", type=int, default=0)
    said = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [name for name in PROBLEMS if any(part in name for part in said.problems)]
    print("| problem | " + " | ".join(said.estimators) + " |\n|" + "---|" * (len(said.estimators) + 1))
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in said.estimators}
    for name in chosen:
        line = []
        for estimator, table in scored(name, said.estimators, said.cells, said.seed).items():
            found[estimator].append(table)
            line.append(f"{table['error'].mean():.4f}, {table['error'].abs().max():.3f}")
        print(f"| {name} | " + " | ".join(line) + " |", flush=True)
    print(
        "\n| estimator | mean error | worst | within 2 s.e. | k-hat above 0.7 | ms a cell | stayed on |\n|" + "---|" * 7
    )
    for estimator, tables in found.items():
        print(f"| {estimator} | " + " | ".join(summary(pd.concat(tables))) + " |")


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
