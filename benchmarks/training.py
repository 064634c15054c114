"""Training beside scvi-tools: cells a second, in one process and in turn; how near to the floor; how much memory.

    pip install -e ".[bench]"
    python benchmarks/training.py --out results                          counts drawn here: 20,000 cells, 2,000 genes
    python benchmarks/training.py pbmc.h5ad --batch batch --threads 2

Everyone trains scVI's networks: one hidden layer of 128, ten latents, batch norm on both sides, dropout in the encoder.
A round is one epoch of each contestant after the other, scvi-tools first; a ratio is taken within its round, and a row
has the median, the least and the most of them. The time is that of the process, whose threads are added up, so that a
busy machine is as unkind to one as to the other; with ``--wall`` it is that of the clock.

The floor is what the matrix products of a step would take by themselves, at the rate at which this machine multiplied
matrices of these shapes in the same rounds. ``--memory`` adds what a process of its own comes to hold beyond the
counts.
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
import lightning
import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from common import Peak, drawn, markdown, read, write
from torch import nn

import pyroscvi as ps
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.inference.run import Run
from pyroscvi.inference.schedules import LinearWarmup
from pyroscvi.inference.seeds import seeded
from pyroscvi.models import GMVAE, SCVI
from pyroscvi.parts import MLP, NB, ZINB, BatchNorm, ReadCell

CPU = torch.device("cpu")
LIKELIHOODS = {"nb": NB(), "zinb": ZINB()}
clock: Callable[[], float] = time.process_time


class Peer:
    """scvi-tools, an epoch at a time: two are run, and the quicker one counts."""

    def __init__(self, adata: AnnData, cells: ps.Cells, likelihood: str, size: int):
        self.size, self.seconds = size, []
        scvi.settings.seed = 0
        scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
        self.model = scvi.model.SCVI(adata, n_hidden=128, n_latent=10, n_layers=1, gene_likelihood=likelihood)

    def __call__(self) -> float:
        self.seconds.clear()
        quiet = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu", "train_size": 1.0}
        self.model.train(2, batch_size=self.size, callbacks=[Stopwatch(self.seconds)], **quiet)
        return min(self.seconds)


class Stopwatch(lightning.pytorch.Callback):
    def __init__(self, seconds: list[float]):
        self.seconds = seconds

    def on_train_epoch_start(self, *_) -> None:
        self.began = clock()

    def on_train_epoch_end(self, *_) -> None:
        self.seconds.append(clock() - self.began)


class Ours:
    """A run of ``fit``, an epoch at a time, without the evaluations at its end."""

    def __init__(self, cells: ps.Cells, model, guide, size: int, compile: bool = False):
        with seeded(0, CPU):
            model = model.sized(cells.dims)
            guide = guide.sized(model, cells)
            self.run = Run(
                model, guide, cells, held_out=None, epochs=10**6, batch_size=size, lr=1e-3, warmup=LinearWarmup(0.1),
                patience=None, clip=100.0, objectives=(), seed=0, compile=compile,
            )  # fmt: skip
        self.flops = flops(self.run.trained)

    def __call__(self) -> float:
        began = clock()
        with seeded(0, CPU):
            for _ in range(self.run.steps - self.run.step - 1):  # the epoch does not end, and so is not evaluated
                self.run.advance()
            self.run.step = 0
            self.run._minibatches = None
        return (clock() - began) * self.run.steps / (self.run.steps - 1)


def flops(trained: nn.ModuleDict) -> int:
    """Of the matrix products of one cell: y = W h, and the slopes in W and in h, which counts have not."""
    layers = [layer.weight.numel() for layer in trained.modules() if isinstance(layer, nn.Linear)]
    first = trained["guide"].encoder.layers.linear[0].weight.numel()
    return 6 * sum(layers) - 2 * first


def contestants(adata: AnnData, cells: ps.Cells, likelihood: str, size: int, some: list[str]) -> dict[str, Callable]:
    slots = {"likelihood": LIKELIHOODS[likelihood], "decoder": MLP(norm=BatchNorm())}
    reads = ReadCell(norm=BatchNorm())
    model, mixture = SCVI(**slots), GMVAE(**slots)
    mean_field, full = MeanField(encoder=reads), FullCovariance(encoder=reads)
    every = {
        "scvi-tools": lambda: Peer(adata, cells, likelihood, size),
        "SCVI, MeanField": lambda: Ours(cells, model, mean_field, size),
        "SCVI, MeanField, compiled": lambda: Ours(cells, model, mean_field, size, compile=True),
        "SCVI, FullCovariance, compiled": lambda: Ours(cells, model, full, size, compile=True),
        "GMVAE (enumerated), FullCovariance, compiled": lambda: Ours(cells, mixture, full, size, compile=True),
    }
    return {name: make for name, make in every.items() if name in some or not some}


def multiplied(cells: int, genes: int) -> float:
    """Floating point operations a second in products of the shapes of a step, in the time of the clock."""
    a, b = torch.randn(cells, 128), torch.randn(128, genes)
    torch.mm(a, b)
    began, times = clock(), 20
    for _ in range(times):
        torch.mm(a, b)
    return times * 2 * a.numel() * genes / (clock() - began)


def race(adata: AnnData, cells: ps.Cells, likelihood: str, size: int, rounds: int, some: list[str]) -> list[dict]:
    """One row a contestant."""
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
    """What training came to hold beyond what there was before, in MB: counts are read before, and made cells after."""
    torch.set_num_threads(threads)
    _hush()
    adata = ad.read_h5ad(path)
    with Peak() as held:
        contestants(adata, ps.Fields(batch="batch").read(adata), likelihood, size, [name])[name]()()
    return held.bytes / 1e6


def memory(adata: AnnData, cells: ps.Cells, likelihood: str, size: int, some: list[str], threads: int) -> list[dict]:
    """One row a contestant, each in a process of its own."""
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
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("data", type=Path, nargs="?", help="an h5ad with counts in X")
    ask.add_argument("--batch", help="column of obs")
    ask.add_argument("--cells", type=int, default=20_000, help="to draw, where there is no data")
    ask.add_argument("--genes", type=int, default=2000)
    ask.add_argument("--likelihood", nargs="+", default=["nb", "zinb"], choices=list(LIKELIHOODS))
    ask.add_argument("--batch-size", nargs="+", type=int, default=[128, 1024])
    ask.add_argument("--rounds", type=int, default=5)
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--wall", action="store_true", help="time by the clock")
    ask.add_argument("--only", nargs="+", default=[], help="names of contestants, scvi-tools among them")
    ask.add_argument("--memory", action="store_true", help="measure peak memory as well; alone with --rounds 0")
    ask.add_argument("--out", type=Path, default=Path("results"))
    asked = ask.parse_args()
    global clock
    clock = time.perf_counter if asked.wall else time.process_time
    torch.set_num_threads(asked.threads)
    _hush()

    if asked.data is None:
        adata = drawn(asked.cells, asked.genes)
    else:
        adata = read(asked.data, asked.batch, asked.genes)
        adata.obs["batch"] = adata.obs[asked.batch].astype("category") if asked.batch else "one"
        adata.obs["batch"] = adata.obs["batch"].astype("category")
    cells = ps.Fields(batch="batch").read(adata)
    rows = []
    for likelihood in asked.likelihood:
        for size in asked.batch_size:
            raced = race(adata, cells, likelihood, size, asked.rounds, asked.only) if asked.rounds else []
            held = memory(adata, cells, likelihood, size, asked.only, asked.threads) if asked.memory else []
            rows += [row | peak for row, peak in zip(raced, held, strict=True)] if raced and held else raced + held
    table = pd.DataFrame(rows).set_index("")
    about = {name: str(value) for name, value in vars(asked).items()}
    write(asked.out, "training", table, about)
    print(markdown(table))


if __name__ == "__main__":
    main()
