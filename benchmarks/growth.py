"""Cost against cells, genes, latent dimensions, components and particles; a picture with fitted exponents.

    python benchmarks/growth.py --out results
    python benchmarks/growth.py --compile --out results

SCVI under MeanField at their defaults, minibatches of 128, on simulated counts of which nine in ten are zero. Each
point is the minimum of a few runs, in processor seconds of one thread: an epoch (cells), a step of training (genes,
latent dimensions, components of a GMVAE), or the evidence of eight cells (particles). An exponent is the slope of a
straight line through the logarithms of all points. A constant cost at small sizes makes it smaller than its limit.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from common import drawn, publish
from scipy import sparse

import pyroscvi as ps
from pyroscvi.evidence import Importance
from pyroscvi.guides import MeanField
from pyroscvi.inference.run import Run
from pyroscvi.inference.schedules import CosineDecay, LinearWarmup
from pyroscvi.inference.seeds import seeded
from pyroscvi.models import GMVAE, SCVI
from pyroscvi.parts import NB

CPU = torch.device("cpu")
AXES = {
    "cells": ("an epoch, 500 genes", [1_000, 10_000, 100_000, 1_000_000]),
    "genes": ("a step", [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000]),
    "latent": ("a step, 2,000 genes", [2, 5, 10, 20, 50, 100, 200]),
    "components": ("a step of GMVAE, 2,000 genes", [2, 5, 10, 20, 50, 100, 200]),
    "particles": ("the evidence of eight cells, 2,000 genes", [100, 300, 1_000, 3_000, 10_000]),
}


def cells_of(n: int, genes: int) -> ps.Cells:
    """``n`` simulated cells; more than ten thousand cells are drawn from these ten thousand with replacement."""
    some = ps.Fields(batch="batch").read(drawn(min(n, 10_000), genes))
    if n <= len(some):
        return some
    counts, rows = some.counts, np.random.default_rng(0).integers(0, len(some), n)
    blocks = [counts[part] for part in np.array_split(rows, n // 50_000 + 1)]
    codes = {"batch": some.batch[torch.as_tensor(rows)]}
    return replace(some, counts=sparse.vstack(blocks, format="csr"), categories=codes, names=None)


def run_of(cells: ps.Cells, model, compile: bool) -> Run:
    with seeded(0, CPU):
        model = model.sized(cells.dims)
        guide = MeanField().sized(model, cells)
        return Run(
            model, guide, cells, held_out=None, epochs=10**6, batch_size=128, lr=1e-3, decay=CosineDecay(),
            warmup=LinearWarmup(0.1), patience=None, clip=100.0, objectives=(), seed=0, compile=compile,
        )  # fmt: skip


def steps(run: Run, most: int) -> float:
    """Processor seconds of a step, as a mean over at most ``most`` steps of one epoch, without its evaluation."""
    many = min(most, run.steps - 1)
    with seeded(0, CPU):
        run.advance()
        began = time.process_time()
        for _ in range(many - 1):
            run.advance()
        spent = time.process_time() - began
        run.step, run._minibatches = 0, None
    return spent / (many - 1)


def points(axis: str, sizes: list[int], compile: bool) -> Iterator[tuple[int, Callable[[], float]]]:
    if axis == "particles":
        cells = cells_of(2_000, 2_000)
        fit = ps.fit(SCVI(likelihood=NB()), MeanField(), cells, epochs=2, progress=False)
        few = cells.subset(torch.arange(8))
        for size in sizes:
            how = {"particles": size, "estimator": Importance(), "compile": compile}
            yield size, lambda how=how: spent(lambda: fit.log_evidence(few, **how))
        return
    shared = cells_of(10_000, 2_000) if axis in ("latent", "components") else None
    for size in sizes:
        if axis == "cells":
            run = run_of(cells_of(size, 500), SCVI(likelihood=NB()), compile)
            yield size, lambda run=run: steps(run, 10**6) * run.steps
        elif axis == "genes":
            run = run_of(cells_of(2_000, size), SCVI(likelihood=NB()), compile)
            yield size, lambda run=run: steps(run, 15)
        else:
            page = SCVI(latent=size, likelihood=NB()) if axis == "latent" else GMVAE(kinds=size, likelihood=NB())
            run = run_of(shared, page, compile)
            yield size, lambda run=run: steps(run, 40)


def spent(do: Callable) -> float:
    began = time.process_time()
    do()
    return time.process_time() - began


def exponent(sizes: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Slope, and intercept, of log seconds on log size."""
    slope, intercept = np.polyfit(np.log(sizes), np.log(seconds), 1)
    return slope, intercept


def picture(table: pd.DataFrame, path: Path) -> None:
    figure, frames = plt.subplots(1, len(AXES), figsize=(15, 3.2), layout="constrained")
    for frame, (axis, (what, _)) in zip(frames, AXES.items(), strict=True):
        rows = table[table["axis"] == axis]
        sizes, seconds = rows["size"].to_numpy(), rows["seconds"].to_numpy()
        slope, intercept = exponent(sizes, seconds)
        frame.loglog(sizes, np.exp(intercept) * sizes**slope, color="0.7", zorder=1)
        frame.loglog(sizes, seconds, "o", color="C0", zorder=2)
        low, high = frame.get_ylim()
        middle, half = (low * high) ** 0.5, max(high / low, 30) ** 0.5  # so that a small growth looks small
        frame.set(xlabel=axis, ylim=(middle / half, middle * half))
        frame.set_title(f"{what}\nexponent {slope:.2f}", fontsize=8)
    frames[0].set_ylabel("processor seconds")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--most", type=int, default=10**6, help="largest size to measure")
    parser.add_argument("--times", type=int, default=3, help="runs of every point; the minimum is reported")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = []
    for axis in options.axes:
        for size, do in points(axis, [s for s in AXES[axis][1] if s <= options.most], options.compile):
            seconds = min(do() for _ in range(1 if size >= 100_000 else options.times))
            rows.append({"axis": axis, "size": size, "seconds": seconds})
            print(*rows[-1].values(), flush=True)
    points_ = pd.DataFrame(rows)
    slopes = {
        axis: exponent(r["size"].to_numpy(), r["seconds"].to_numpy())[0]
        for axis, r in points_.groupby("axis", sort=False)
    }
    points_["ms"] = 1e3 * points_["seconds"]
    table = points_.assign(point=points_["axis"] + " " + points_["size"].map("{:,}".format)).set_index("point")
    name = "growth-compiled" if options.compile else "growth"
    publish(table[["ms"]], options.out, name, {"exponents": slopes, "compile": options.compile, "threads": 1})
    if set(options.axes) == set(AXES):
        picture(points_, options.out / f"{name}.png")
    print(*(f"{axis}: {slope:.2f}" for axis, slope in slopes.items()), sep="\n")


if __name__ == "__main__":
    main()
