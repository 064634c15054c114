"""Does a comparison find the model that made the data? Counts from a known likelihood, and fits of three.

    python benchmarks/recoveries.py [--runs 20] [--cells 600] [--out results]

Each run draws a new model (two latents, a linear decoder, 40 genes; random means, loadings, dispersions and extra
zeros) and cells from it. Sizes are not computed from these genes, so every evidence is a p(x). Poisson, NB and ZINB are
fitted to the same cells with the same guide, and ``pyroscvi.compare`` compares them on held-out cells. The fitted
families contain the generator. NB contains Poisson and ZINB contains NB, so a tie is not a mistake. A mistake is a
generator that is told apart from the best and behind it.

A row of the table is a generator: how often it came first, was tied with the first, or lost; and how often each of the
others was told apart from it and behind, because a comparison that calls everything a tie makes no mistake. "NB behind
by" is the lead of the generator over NB, in nats a cell. Fits are stored under ``--out`` and reused.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import publish
from pyro import poutine

import pyroscvi as ps
from pyroscvi.comparison.paired import Paired, standard_error, verdict
from pyroscvi.guides import FullCovariance
from pyroscvi.inference.seeds import seeded
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, ZINB, Linear, Poisson, ReadCell, SizeFactor

LIKELIHOODS = {"Poisson": Poisson(), "NB": NB(), "ZINB": ZINB()}
PAGE = SCVI(latent=2, decoder=Linear(), size=SizeFactor())
GUIDE = FullCovariance(encoder=ReadCell(64, dropout=0.0))
GENES, SIZE = 40, 60  # three counts for every two genes on average; most genes have far fewer


def made(likelihood: str, n: int, seed: int) -> ps.Cells:
    """Cells of a randomly drawn model; about half of the counts or more are zero."""
    with seeded(seed), torch.no_grad():
        sizes = SIZE * torch.exp(0.4 * torch.randn(n))
        blank = ps.Cells(torch.ones(n, GENES), size_factor=sizes)
        page = SCVI(latent=2, decoder=Linear(), size=SizeFactor(), likelihood=LIKELIHOODS[likelihood])
        model = page.sized(blank.dims).eval()
        heads = model.decoder.heads
        heads["rho"].weight.normal_(0, 0.7)
        heads["rho"].bias.normal_(0, 1.3)
        if "gate" in heads:
            heads["gate"].weight.normal_(0, 0.3)
            heads["gate"].bias.normal_(-0.5, 1)  # about a third of extra zeros
        if likelihood != "Poisson":
            model.likelihood.dispersion.log_theta.normal_(0.7, 0.5)  # theta of 2
        drawn = poutine.trace(poutine.uncondition(model)).get_trace(blank).nodes["x"]["value"]
    return ps.Cells(drawn, size_factor=sizes)


def compared(
    likelihood: str, seed: int, cells: int, scored: int, folder: Path | None = None, **settings
) -> ps.Comparison:
    """Comparison of the three likelihoods on cells that one of them made."""
    train, held_out = made(likelihood, cells + scored, seed).split(scored / (cells + scored), seed=seed)
    declared = ps.grid(PAGE, GUIDE, likelihood=LIKELIHOODS)
    settings = {"epochs": 100, "batch_size": 256, "lr": 2e-2, "device": "cpu", "progress": False, **settings}
    return ps.compare(ps.sweep(declared, train, folder=folder, seeds=[seed], **settings), held_out, 500)


def judged(comparison: ps.Comparison, generator: str) -> dict[str, object]:
    """Row of one comparison: the place of the generator, and its lead over each of the others."""
    of = {name: values.to_numpy() for name, values in comparison.by_cell["log_evidence"].items()}
    best = comparison.table.index[0]
    tied = not apart(of[best] - of[generator])
    place = "first" if generator == best else "tied" if tied else "lost"
    row: dict[str, object] = {"generator": generator, "place": place}
    for name in of:
        ahead = of[generator] - of[name]
        row |= {f"{name} ahead": ahead.mean(), f"{name} told apart": bool(apart(ahead) and ahead.mean() > 0)}
    return row


def apart(difference: np.ndarray) -> bool:
    """Whether two fits are told apart by two standard errors over cells; ``compare`` asks for several seeds."""
    error = float(standard_error(difference))
    return verdict(Paired(float(difference.mean()), error, 2 * error), len(difference)) == "told apart"


def judgements(
    runs: int, cells: int, scored: int, folder: Path | None = None, **settings
) -> Iterator[dict[str, object]]:
    """Rows of all comparisons, run by run and generator by generator."""
    for run in range(runs):
        for generator in LIKELIHOODS:
            yield {"run": run, **judged(compared(generator, run, cells, scored, folder, **settings), generator)}


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """The table, with one row for each generator."""
    lines = {}
    for generator, these in runs.groupby("generator", sort=False):
        line: dict[str, float] = {place: (these["place"] == place).sum() for place in ("first", "tied", "lost")}
        others = [name for name in LIKELIHOODS if name != generator]
        line |= {f"{name} told apart": these[f"{name} told apart"].sum() for name in others}
        line |= {f"{name} behind by": these[f"{name} ahead"].mean() for name in others}
        lines[f"{generator}, {len(these)} runs"] = line
    apart = [f"{name} told apart" for name in LIKELIHOODS]
    columns = ["first", "tied", "lost", *apart, *(f"{name} behind by" for name in LIKELIHOODS)]
    table = pd.DataFrame.from_dict(lines, orient="index").reindex(columns=columns)
    return table.astype(dict.fromkeys(("first", "tied", "lost", *apart), "Int64"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="runs of every generator")
    parser.add_argument("--cells", type=int, default=600)
    parser.add_argument("--score", type=int, default=200, help="number of held-out cells")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    rows = []
    for row in judgements(options.runs, options.cells, options.score, options.out / "recoveries"):
        rows.append(row)
        print(f"{row['run']}: {row['generator']}: {row['place']}", file=sys.stderr, flush=True)
    runs = pd.DataFrame(rows)
    table = summary(runs)
    table.index.name = "made by"
    about = {name: str(value) for name, value in vars(options).items()} | {"runs": rows}
    publish(table, options.out, "recoveries", about)
    kept = len(runs) - (runs["place"] == "lost").sum()
    print(f"{kept} of {len(runs)} generators came first or tied")


if __name__ == "__main__":
    main()
