"""Larger minibatches: held-out evidence after equal epochs, with the learning rate as it is and scaled along.

    pip install -e ".[bench]"
    python benchmarks/scaling_up.py pbmc10k_5k_totalvi.h5ad --batch batch --epochs 40 --out results

Every fit sees the same nine tenths of the cells for the same number of epochs and keeps its best state; evidence is
that of ``pyroscvi.compare`` on the last tenth. Time is that of one thread, as a ratio to the first row.
"""

import argparse
import time
import warnings
from pathlib import Path

import pandas as pd
import torch
from common import markdown, read, write

import pyroscvi as ps
from pyroscvi.guides import MeanField
from pyroscvi.inference.schedules import Patience
from pyroscvi.models import SCVI
from pyroscvi.parts import NB

LR = 3e-3


def contestants(large: int) -> dict[str, dict]:
    """Minibatch and learning rate of every row."""
    times = large / 128
    return {
        "128, lr": {"batch_size": 128, "lr": LR},
        f"{large}, lr": {"batch_size": large, "lr": LR},
        f"{large}, scale_lr: lr x {min(times, 8) ** 0.5:.1f}": {"batch_size": large, "lr": LR, "scale_lr": True},
        f"{large}, lr x {times:g} (in proportion)": {"batch_size": large, "lr": LR * times},
    }


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("data", type=Path, help="an h5ad with counts in X")
    ask.add_argument("--batch", help="column of obs")
    ask.add_argument("--genes", type=int, default=2000)
    ask.add_argument("--epochs", type=int, default=60)
    ask.add_argument("--large", type=int, nargs="+", default=[1024])
    ask.add_argument("--seeds", type=int, default=2)
    ask.add_argument("--particles", type=int, default=1000)
    ask.add_argument("--score", type=int, default=300, help="at most so many held-out cells are scored")
    ask.add_argument("--compile", action="store_true", help="of the training steps")
    ask.add_argument("--out", type=Path, default=Path("results"))
    said = ask.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    cells = ps.Fields(batch=said.batch).read(read(said.data, said.batch, said.genes))
    rows = []
    for seed in range(said.seeds):
        train, held_out = cells.split(0.1, by="batch" if said.batch else None, seed=seed)
        scored = held_out.subset(torch.linspace(0, len(held_out) - 1, min(said.score, len(held_out))).long())
        fits, seconds = {}, {}
        for name, options in {n: o for large in said.large for n, o in contestants(large).items()}.items():
            began = time.process_time()
            fits[name] = ps.fit(
                SCVI(likelihood=NB()), MeanField(), train, epochs=said.epochs, early_stopping=Patience(said.epochs),
                seed=seed, device="cpu", progress=False, compile=said.compile, **options,
            )  # fmt: skip
            seconds[name] = time.process_time() - began
            print(f"seed {seed}: {name}: {seconds[name]:.0f} s", flush=True)
        compared = ps.compare(fits, scored, said.particles).table
        for name, fit in fits.items():
            found = {"evidence": compared.evidence[name], "training bound": fit.history["elbo_train"].iloc[-1]}
            rows.append({"fit": name, "seed": seed, **found, "time": seconds[name] / seconds["128, lr"]})
    table = pd.DataFrame(rows).pivot(index="fit", columns="seed").loc[list(fits)]
    table.columns = [f"{what}, seed {seed}" for what, seed in table.columns]
    table.index.name = f"{said.data.stem}, {len(train)} cells, {said.epochs} epochs, {len(scored)} held-out cells"
    about = {name: str(value) for name, value in vars(said).items()} | {"threads": torch.get_num_threads()}
    write(said.out, f"scaling-up-{said.data.stem}-{said.epochs}", table, about)
    print(markdown(table))


if __name__ == "__main__":
    main()
