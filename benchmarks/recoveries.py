"""Does a comparison find the model that made the data? Counts of a known likelihood, under three that are fitted.

    python benchmarks/recoveries.py [--runs 20] [--cells 600] [--out results]

Each run draws a model afresh (two latents, a linear decoder, 40 genes; means, loadings, dispersions and extra zeros
at random), and cells from it whose sizes are not counted from these genes, so that every evidence is a proper p(x).
Poisson, NB and ZINB are fitted to the same cells under the same guide, and ``pyroscvi.compare`` judges them on cells
that none of them saw. The fitted family holds what made the data; NB holds Poisson and ZINB holds NB, so that a tie is
no mistake. A mistake is a generator that is told apart from the best and behind it.

A line of the table is a generator: how often it came first, how often it was tied with the first, how often it was
lost; and how often each of the others was told apart from it and behind, for a comparison that calls everything a tie
is never wrong. "less NB" is by how much it was ahead of NB, in nats a cell. Fits lie under ``--out``, and are found
again.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from common import markdown, write
from pyro import poutine

import pyroscvi as ps
from pyroscvi.comparison.paired import standard_error, verdict
from pyroscvi.guides import FullCovariance
from pyroscvi.inference.seeds import seeded
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, ZINB, Linear, Poisson, ReadCell, SizeFactor

LIKELIHOODS = {"Poisson": Poisson(), "NB": NB(), "ZINB": ZINB()}
PAGE = SCVI(latent=2, decoder=Linear(), size=SizeFactor())
GUIDE = FullCovariance(encoder=ReadCell(64, dropout=0.0))
GENES, SIZE = 40, 60  # three counts on two genes, on average; most genes are far below


def made(likelihood: str, n: int, seed: int) -> ps.Cells:
    """Cells of a model that is drawn at random; about half of the counts are zero, or more."""
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
            heads["gate"].bias.normal_(-0.5, 1)  # a zero in three is one too many
        if likelihood != "Poisson":
            model.likelihood.dispersion.log_theta.normal_(0.7, 0.5)  # theta of 2
        drawn = poutine.trace(poutine.uncondition(model)).get_trace(blank).nodes["x"]["value"]
    return ps.Cells(drawn, size_factor=sizes)


def compared(
    likelihood: str, seed: int, cells: int, scored: int, folder: Path | None = None, **settings
) -> ps.Comparison:
    """The comparison of the three on cells that one of them made."""
    train, held_out = made(likelihood, cells + scored, seed).split(scored / (cells + scored), seed=seed)
    declared = ps.grid(PAGE, GUIDE, likelihood=LIKELIHOODS)
    settings = {"epochs": 100, "batch_size": 256, "lr": 2e-2, "device": "cpu", "progress": False, **settings}
    return ps.compare(ps.sweep(declared, train, folder=folder, seeds=[seed], **settings), held_out, 500)


def judged(comparison: ps.Comparison, generator: str) -> dict[str, object]:
    """What a comparison says of the generator, and of each of the others against it."""
    of = {name: values.to_numpy() for name, values in comparison.by_cell["log_evidence"].items()}
    said = {"best": "first", "indistinguishable": "tied", "told apart": "lost"}
    found: dict[str, object] = {"generator": generator, "place": said[comparison.table.loc[generator, "verdict"]]}
    for name in of:
        ahead = of[generator] - of[name]
        told = verdict(ahead.mean(), float(standard_error(ahead)), len(ahead)) == "told apart"
        found |= {f"{name} ahead": ahead.mean(), f"{name} told apart": bool(told and ahead.mean() > 0)}
    return found


def judgements(
    runs: int, cells: int, scored: int, folder: Path | None = None, **settings
) -> Iterator[dict[str, object]]:
    """What comparisons say of every generator, run by run."""
    for run in range(runs):
        for generator in LIKELIHOODS:
            yield {"run": run, **judged(compared(generator, run, cells, scored, folder, **settings), generator)}


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """A line a generator."""
    lines = {}
    for generator, these in runs.groupby("generator", sort=False):
        line: dict[str, float] = {place: (these["place"] == place).sum() for place in ("first", "tied", "lost")}
        others = [name for name in LIKELIHOODS if name != generator]
        line |= {f"{name} told apart": these[f"{name} told apart"].sum() for name in others}
        line |= {f"less {name}": these[f"{name} ahead"].mean() for name in others}
        lines[f"{generator}, {len(these)} runs"] = line
    told = [f"{name} told apart" for name in LIKELIHOODS]
    columns = ["first", "tied", "lost", *told, *(f"less {name}" for name in LIKELIHOODS)]
    table = pd.DataFrame.from_dict(lines, orient="index").reindex(columns=columns)
    return table.astype(dict.fromkeys(("first", "tied", "lost", *told), "Int64"))


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--runs", type=int, default=20, help="of every generator")
    ask.add_argument("--cells", type=int, default=600)
    ask.add_argument("--score", type=int, default=200, help="held-out cells")
    ask.add_argument("--out", type=Path, default=Path("results"))
    said = ask.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    rows = []
    for row in judgements(said.runs, said.cells, said.score, said.out / "recoveries"):
        rows.append(row)
        print(f"{row['run']}: {row['generator']}: {row['place']}", file=sys.stderr, flush=True)
    runs = pd.DataFrame(rows)
    table = summary(runs)
    table.index.name = "made by"
    about = {name: str(value) for name, value in vars(said).items()} | {"runs": rows}
    write(said.out, "recoveries", table, about)
    kept = len(runs) - (runs["place"] == "lost").sum()
    print(markdown(table), f"\n{kept} of {len(runs)} generators came first or tied")


if __name__ == "__main__":
    main()
