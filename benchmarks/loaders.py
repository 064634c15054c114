"""Loaders: cells a second from memory and from disk, the effect on training, and the memory that they need.

    python benchmarks/loaders.py [--cells 1000000] [--out FOLDER]

Counts are simulated once for 20,000 cells of 2,000 genes, about a tenth of them non-zero, and repeated in random
order, so that a million cells take 1.6 GB of disk in a temporary folder. Every loader is measured in its own process.
Training runs from memory and from disk in turn, in one process. ``cells/s`` is measured by the clock, and
``cells/cpu s`` by the processor time of one torch thread and of the reading thread, which is reliable on a busy machine
too. Files are dropped from the page cache before, if the system allows it. ``peak MB`` is the largest memory of the
process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import torch
import zarr
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from common import publish
from scipy import sparse

import pyroscvi as ps
from pyroscvi.guides import MeanField
from pyroscvi.inference.run import MAX_EVALUATED, Run
from pyroscvi.inference.schedules import CosineDecay, LinearWarmup
from pyroscvi.inference.seeds import seeded
from pyroscvi.models import SCVI

GENES, TILE, SIZE = 2000, 20_000, 128
SECONDS = 10.0  # of measurement for each loader
ROUNDS, STEPS = 4, 64  # of training, in turn from memory and from disk


def tile(rng: np.random.Generator) -> sparse.csr_matrix:
    """Counts of 20,000 cells; every cell has at least one."""
    share = rng.dirichlet(np.exp(rng.normal(0, 1.2, GENES)))
    size = np.exp(rng.normal(5.6, 0.4, (TILE, 1)))
    counts = sparse.csr_matrix(rng.poisson(size * share).astype(np.float32))
    counts.indptr = counts.indptr.astype(np.int64)  # a million cells have more counts than an int32 can number
    return counts


def build(path: Path, cells: int, compression: str | None = None) -> Path:
    """An h5ad or zarr with ``cells`` cells, written block by block."""
    rng = np.random.default_rng(0)
    counts = tile(rng)
    store = zarr.open_group(str(path), mode="w") if path.suffix == ".zarr" else h5py.File(path, "w")
    obs = pd.DataFrame({"batch": pd.Categorical(np.sort(rng.integers(0, 4, cells)).astype(str))})
    obs.index = np.char.add("cell", np.arange(cells).astype(str))
    write_elem(store, "/", AnnData(obs=obs, var=pd.DataFrame(index=[f"gene{g}" for g in range(GENES)])))
    options = {} if path.suffix == ".zarr" else {"chunks": (32_768,), "compression": compression}
    for start in range(0, cells, TILE):
        block = counts[rng.permutation(TILE)][: cells - start]
        if start:
            sparse_dataset(store["X"]).append(block)
        else:
            write_elem(store, "X", block, dataset_kwargs=options)
    return path


def drop(path: Path) -> None:
    """Drop the file, or the files of the folder, from the page cache."""
    if hasattr(os, "posix_fadvise"):
        for file in [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]:
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def random_rows(path: Path) -> Iterator[int]:
    """Minibatches of random rows of a backed AnnData, which is shuffling without blocks."""
    adata, rng = ad.read_h5ad(path, backed="r"), np.random.default_rng(1)
    while True:
        yield len(adata.X[np.sort(rng.choice(adata.n_obs, SIZE, replace=False))].toarray())


def cells_of(path: Path, memory: bool) -> ps.Cells:
    fields, read = ps.Fields(batch="batch"), ad.read_zarr if path.suffix == ".zarr" else ad.read_h5ad
    return fields.read(read(path)) if memory else fields.open(path)


def loaded(cells: ps.Cells) -> Iterator[int]:
    generator = torch.Generator().manual_seed(0)
    while True:
        for minibatch in cells.minibatches(SIZE, generator):
            yield len(minibatch.x)


def trained(cells: ps.Cells) -> Iterator[int]:
    """The steps of ``fit`` on nine tenths of the cells, or all but 10,000."""
    with seeded(0, torch.device("cpu")):
        train, held_out = cells.split(min(0.1, MAX_EVALUATED / len(cells)), by="batch")
        model = SCVI().sized(cells.dims)
        run = Run(
            model, MeanField().sized(model, cells), train, held_out, epochs=100, batch_size=SIZE, lr=3e-3,
            decay=CosineDecay(), warmup=LinearWarmup(0.1), patience=None, clip=100.0, objectives=(), seed=0,
            compile="trace",
        )  # fmt: skip
    while True:
        run.advance()
        yield run.size


class Rate:
    """Cells per second of the clock and of the processor, summed over turns."""

    def __init__(self, what: Iterator[int]):
        self.what, self.cells, self.clock, self.processor = what, 0, 0.0, 0.0
        next(what)  # opens the file and reads a first buffer

    def turn(self, steps: int | None = None) -> None:
        """Reads ``steps`` minibatches, or those of ten seconds."""
        clock, processor = time.perf_counter(), time.process_time()
        for some in islice(self.what, steps):
            self.cells += some
            if steps is None and time.perf_counter() - clock > SECONDS:
                break
        self.clock += time.perf_counter() - clock
        self.processor += time.process_time() - processor

    def __call__(self) -> dict[str, float]:
        return {"cells/s": self.cells / self.clock, "cells/cpu s": self.cells / self.processor}


def measured(what: str, path: Path) -> dict[str, dict[str, float]]:
    """Rows of one measurement in this process, by the end of their name."""
    torch.set_num_threads(1)
    drop(path)
    if what == "train":
        rates = {source: Rate(trained(cells_of(path, source == "memory"))) for source in ("memory", "disk")}
        for _ in range(ROUNDS):
            for rate in rates.values():
                rate.turn(STEPS)
        return {f", from {source}": rate() for source, rate in rates.items()}
    if what == "train disk":
        rate = Rate(trained(cells_of(path, memory=False)))
        rate.turn(ROUNDS * STEPS)
    else:
        rate = Rate(random_rows(path) if what == "random" else loaded(cells_of(path, what == "load memory")))
        rate.turn()
    return {"": rate() | {"peak MB": peak()}}


def peak() -> float:
    """Largest memory of this process so far [MB]."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would include the memory of the parent process here
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(name: str, what: str, path: Path) -> list[dict[str, float]]:
    """Rows of a measurement in a new process."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", what, str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    rows = [{"": name + more, **row} for more, row in json.loads(finished.stdout.splitlines()[-1]).items()]
    print(*rows, sep="\n", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--few", type=int, default=200_000, help="cells of the gzip and zarr files, and in memory")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one[0], Path(options.one[1]))))
        return
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plain = build(folder / "plain.h5ad", options.cells)
        few = build(folder / "few.h5ad", options.few)
        gzip = build(folder / "gzip.h5ad", options.few, "gzip")
        chunks = build(folder / "chunks.zarr", options.few)
        print({file.name: f"{file.stat().st_size >> 20} MB" for file in (plain, few, gzip)}, flush=True)
        rows = [
            *alone("random rows of a backed AnnData, h5ad", "random", plain),
            *alone("random rows of a backed AnnData, h5ad with gzip", "random", gzip),
            *alone("block-shuffled, h5ad", "load disk", plain),
            *alone("block-shuffled, h5ad with gzip", "load disk", gzip),
            *alone("block-shuffled, zarr", "load disk", chunks),
            *alone("in memory", "load memory", few),
            *alone(f"training on {options.cells:,} cells, h5ad, from disk", "train disk", plain),
            *alone("training, h5ad", "train", few),
            *alone("training, h5ad with gzip", "train", gzip),
            *alone("training, zarr", "train", chunks),
        ]
    table = pd.DataFrame(rows).set_index("")
    publish(table.round(), options.out, "loaders", {"cells": options.cells, "few": options.few, "genes": GENES})


if __name__ == "__main__":
    main()
