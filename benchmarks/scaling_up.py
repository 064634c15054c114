"""Larger minibatches: held-out evidence after equal epochs, with a fixed and with a scaled learning rate.

    pip install -e ".[bench]"
    python benchmarks/scaling_up.py pbmc10k_5k_totalvi.h5ad --batch batch --epochs 40 --out results

Every fit gets the same nine tenths of the cells for the same number of epochs and keeps its best state. Evidence comes
from ``pyroscvi.compare`` on the last tenth. Time is that of one thread, as a ratio to the first row.
"""

import argparse
import time
import warnings
from pathlib import Path

import pandas as pd
import torch
from common import publish, read

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an h5ad with counts in X")
    parser.add_argument("--batch", help="column of obs")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--large", type=int, nargs="+", default=[1024])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--score", type=int, default=300, help="largest number of held-out cells to score")
    parser.add_argument("--compile", action="store_true", help="compile the training steps")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    cells = ps.Fields(batch=options.batch).read(read(options.data, options.batch, options.genes))
    rows = []
    for seed in range(options.seeds):
        train, held_out = cells.split(0.1, by="batch" if options.batch else None, seed=seed)
        scored = held_out.subset(torch.linspace(0, len(held_out) - 1, min(options.score, len(held_out))).long())
        fits, seconds = {}, {}
        settings = {name: row for large in options.large for name, row in contestants(large).items()}
        for name, training in settings.items():
            began = time.process_time()
            fits[name] = ps.fit(
                SCVI(likelihood=NB()), MeanField(), train, epochs=options.epochs, seed=seed, progress=False,
                early_stopping=Patience(options.epochs), device="cpu", compile=options.compile, **training,
            )  # fmt: skip
            seconds[name] = time.process_time() - began
            print(f"seed {seed}: {name}: {seconds[name]:.0f} s", flush=True)
        compared = ps.compare(fits, scored, options.particles).table
        for name, fit in fits.items():
            scores = {"evidence": compared.evidence[name], "training bound": fit.history["elbo_train"].iloc[-1]}
            rows.append({"fit": name, "seed": seed, **scores, "time": seconds[name] / seconds["128, lr"]})
    table = pd.DataFrame(rows).pivot(index="fit", columns="seed").loc[list(fits)]
    table.columns = [f"{what}, seed {seed}" for what, seed in table.columns]
    table.index.name = f"{options.data.stem}, {len(train)} cells, {options.epochs} epochs, {len(scored)} held-out cells"
    about = {name: str(value) for name, value in vars(options).items()} | {"threads": torch.get_num_threads()}
    publish(table, options.out, f"scaling-up-{options.data.stem}-{options.epochs}", about)


if __name__ == "__main__":
    main()
