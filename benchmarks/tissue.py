"""Memory and cost of a fit in tissue against the number of cells, each read with 15 neighbours from disk.

    python benchmarks/tissue.py --out results
    python benchmarks/tissue.py --cells 10000 100000 --steps 40

Simulated tissue, 100 genes of which nine in ten counts are zero, written field of view by field of view; SCVI under a
SpatialGNN, minibatches of 128, a fixed number of steps after one buffer was read. Every size runs in a process of its
own: its peak memory is that of reading, of the graph and of the fit. The cost is processor time of one thread.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import sparse

import pyroscvi as ps
from pyroscvi.data import Nearest
from pyroscvi.guides import SpatialGNN
from pyroscvi.inference.run import Run
from pyroscvi.inference.schedules import CosineDecay, LinearWarmup
from pyroscvi.inference.seeds import seeded
from pyroscvi.models import SCVI
from pyroscvi.parts import NB

GENES, NEIGHBOURS, SIZE = 100, 15, 128
SIDE = 32  # cells along the side of a field of view


def written(n: int, file: Path) -> None:
    """Write a tissue of n cells, one field of view after another."""
    rng = np.random.default_rng(0)
    side = int(np.sqrt(n))
    place = rng.uniform(0, side, (n, 2))
    view = (place // SIDE).astype(int)
    place = place[np.lexsort([view[:, 0], view[:, 1]])]
    rate = rng.gamma(0.3, 0.35, (4, GENES))
    kind = (place[:, 0] * 4 / side).astype(int)
    blocks = [
        sparse.csr_matrix(rng.poisson(rate[part] + 0.01).astype(np.float32)) for part in np.array_split(kind, 100)
    ]
    counts = sparse.vstack(blocks, format="csr")
    empty = np.flatnonzero(np.diff(counts.indptr) == 0)
    counts = counts + sparse.csr_matrix(
        (np.ones(len(empty), np.float32), (empty, np.zeros(len(empty), int))), counts.shape
    )
    anndata.AnnData(sparse.csr_matrix(counts), obsm={"spatial": place}).write_h5ad(file)


def measured(file: Path, steps: int) -> None:
    """Print cells, seconds for reading, seconds a step, and the peak of memory in bytes."""
    torch.set_num_threads(1)
    began = time.process_time()
    cells = ps.Fields(spatial="spatial", graph=Nearest(NEIGHBOURS)).open(file)
    with seeded(0, torch.device("cpu")):
        model = SCVI(likelihood=NB()).sized(cells.dims)
        guide = SpatialGNN().sized(model, cells)
        run = Run(
            model, guide, cells, None, 1, SIZE, 6e-3, CosineDecay(), LinearWarmup(), None, 100.0, (), 0, fresh=True
        )
        run.advance()  # reads the first buffer
        reading, began = time.process_time() - began, time.process_time()
        for _ in range(min(steps, run.steps - 2)):
            run.advance()
    step = (time.process_time() - began) / min(steps, run.steps - 2)
    print(len(cells), reading, step, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def drawn(table: pd.DataFrame, file: Path) -> None:
    """Draw cost and memory against cells, with lines in proportion."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    hours = (table["reading"] + table["step"] * table["cells"] / SIZE) / 3600
    for axis, values, label in (
        (axes[0], hours, "processor hours of an epoch"),
        (axes[1], table["bytes"] / 1e9, "peak memory, GB"),
    ):
        axis.loglog(table["cells"], values, "o-")
        axis.loglog(table["cells"], values.iloc[0] * table["cells"] / table["cells"].iloc[0], ":", color="grey")
        axis.set(xlabel="cells, each with 15 neighbours", ylabel=label)
    axes[1].axhline(4, color="grey", lw=1)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.file is not None:
        measured(options.file, options.steps)
        return
    warnings.simplefilter("ignore")
    options.out.mkdir(exist_ok=True, parents=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in options.cells:
            written(n, file := Path(folder) / f"{n}.h5ad")
            command = [sys.executable, "-W", "ignore", __file__, "--file", str(file), "--steps", str(options.steps)]
            rows.append([float(value) for value in subprocess.check_output(command, text=True).split()[-4:]])
            table = pd.DataFrame(rows, columns=["cells", "reading", "step", "bytes"])
            print(table.to_string(), flush=True)
            table.to_csv(options.out / "tissue.csv", index=False)
            drawn(table, options.out / "tissue.png")


if __name__ == "__main__":
    main()
