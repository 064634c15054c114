"""Training compared with scvi-tools: cells a second, the share of the lower bound on time, and memory.

    pip install -e ".[bench]"
    python benchmarks/training.py --out results                          simulated counts: 20,000 cells, 2,000 genes
    python benchmarks/training.py pbmc.h5ad --batch batch --threads 2

All contestants train the networks of scVI: one hidden layer of 128, ten latents, batch norm on both sides, dropout in
the encoder. A round is one epoch of every contestant in turn, in one process, with scvi-tools first. A ratio is
computed within its round, and a row has the median, minimum and maximum of the ratios. The time is processor time,
summed over threads, so that other work on the machine affects all contestants equally; with ``--wall`` it is time of
the clock.

The floor is the time of the matrix products of a step alone, at the rate at which this machine multiplied matrices of
these shapes in the same rounds. ``--memory`` adds the memory of a separate process, in addition to the counts.
"""

import argparse
import logging
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from common import Peak, drawn, publish, read
from epochs import Ours, Peer

import pyroscvi as ps
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import GMVAE, SCVI
from pyroscvi.parts import MLP, NB, ZINB, BatchNorm, ReadCell

LIKELIHOODS = {"nb": NB(), "zinb": ZINB()}
clock: Callable[[], float] = time.process_time


def contestants(adata: AnnData, cells: ps.Cells, likelihood: str, size: int, some: list[str]) -> dict[str, Callable]:
    slots = {"likelihood": LIKELIHOODS[likelihood], "decoder": MLP(norm=BatchNorm())}
    reads = ReadCell(norm=BatchNorm())
    model, mixture = SCVI(**slots), GMVAE(**slots)
    mean_field, full = MeanField(encoder=reads), FullCovariance(encoder=reads)
    every = {
        "scvi-tools": lambda: Peer(adata, likelihood, size, clock=clock),
        "SCVI, MeanField": lambda: Ours(cells, model, mean_field, size, clock=clock),
        "SCVI, MeanField, compiled": lambda: Ours(cells, model, mean_field, size, compile=True, clock=clock),
        "SCVI, FullCovariance, compiled": lambda: Ours(cells, model, full, size, compile=True, clock=clock),
        "GMVAE (enumerated), FullCovariance, compiled": lambda: Ours(
            cells, mixture, full, size, compile=True, clock=clock
        ),
    }
    return {name: make for name, make in every.items() if name in some or not some}


def multiplied(cells: int, genes: int) -> float:
    """Floating point operations a second, in matrix products with the shapes of a step."""
    a, b = torch.randn(cells, 128), torch.randn(128, genes)
    torch.mm(a, b)
    began, times = clock(), 20
    for _ in range(times):
        torch.mm(a, b)
    return times * 2 * a.numel() * genes / (clock() - began)


def race(adata: AnnData, cells: ps.Cells, likelihood: str, size: int, rounds: int, some: list[str]) -> list[dict]:
    """One row for each contestant."""
    entered, prepared = {}, {}
    for name, make in contestants(adata, cells, likelihood, size, some).items():
        began = time.monotonic()
        entered[name] = make()
        entered[name]()
        prepared[name] = time.monotonic() - began
    seconds = {name: [] for name in entered}
    rates = []
    for _ in range(rounds):
        for name, epoch in entered.items():
            seconds[name].append(epoch())
        rates.append(multiplied(size, adata.n_vars))
    rows, peer = [], np.array(seconds.get("scvi-tools", [np.nan] * rounds))
    for name, times in seconds.items():
        ratios, times = peer / np.array(times), np.array(times)
        floor = len(cells) * getattr(entered[name], "flops", np.nan) / np.array(rates)
        row = {"": f"{name}, {likelihood.upper()}, {size}", "cells/s": len(cells) / np.median(times)}
        row |= {"ratio": np.median(ratios), "least": ratios.min(), "most": ratios.max()}
        row |= {"share of the floor": np.median(floor / times), "ready after, s": prepared[name]}
        print({k: v if isinstance(v, str) else round(float(v), 3) for k, v in row.items()}, flush=True)
        rows.append(row)
    return rows


def peak(path: Path, likelihood: str, size: int, name: str, threads: int) -> float:
    """Memory of training in addition to the memory before it [MB]. Counts are read before, and become cells after."""
    torch.set_num_threads(threads)
    _hush()
    adata = ad.read_h5ad(path)
    with Peak() as held:
        contestants(adata, ps.Fields(batch="batch").read(adata), likelihood, size, [name])[name]()()
    return held.bytes / 1e6


def memory(adata: AnnData, cells: ps.Cells, likelihood: str, size: int, some: list[str], threads: int) -> list[dict]:
    """One row for each contestant, each in a separate process."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        adata.write_h5ad(path)
        for name in contestants(adata, cells, likelihood, size, some):
            with multiprocessing.get_context("spawn").Pool(1) as alone:
                held = alone.apply(peak, (path, likelihood, size, name, threads))
            rows.append({"": f"{name}, {likelihood.upper()}, {size}", "peak, MB": held})
            print(*rows[-1].values(), flush=True)
    return rows


def _hush() -> None:
    warnings.filterwarnings("ignore")
    scvi.settings.verbosity = logging.ERROR
    for name in ("lightning.pytorch", "lightning", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="an h5ad with counts in X")
    parser.add_argument("--batch", help="column of obs")
    parser.add_argument("--cells", type=int, default=20_000, help="number of simulated cells, if no data are given")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--likelihood", nargs="+", default=["nb", "zinb"], choices=list(LIKELIHOODS))
    parser.add_argument("--batch-size", nargs="+", type=int, default=[128, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wall", action="store_true", help="use time of the clock")
    parser.add_argument("--only", nargs="+", default=[], help="names of contestants, scvi-tools included")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory; with --rounds 0 only that")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    global clock
    clock = time.perf_counter if options.wall else time.process_time
    torch.set_num_threads(options.threads)
    _hush()

    if options.data is None:
        adata = drawn(options.cells, options.genes)
    else:
        adata = read(options.data, options.batch, options.genes)
        adata.obs["batch"] = adata.obs[options.batch].astype("category") if options.batch else "one"
        adata.obs["batch"] = adata.obs["batch"].astype("category")
    cells = ps.Fields(batch="batch").read(adata)
    rows = []
    for likelihood in options.likelihood:
        for size in options.batch_size:
            raced = race(adata, cells, likelihood, size, options.rounds, options.only) if options.rounds else []
            held = memory(adata, cells, likelihood, size, options.only, options.threads) if options.memory else []
            rows += [row | peak for row, peak in zip(raced, held, strict=True)] if raced and held else raced + held
    table = pd.DataFrame(rows).set_index("")
    about = {name: str(value) for name, value in vars(options).items()}
    publish(table, options.out, "training", about)


if __name__ == "__main__":
    main()
