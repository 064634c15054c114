"""Held-out evidence and clusterings of SCVI and of scvi-tools, with equal cells, genes, networks and epochs.

    pip install -e ".[bench]"
    python benchmarks/quality.py pbmc3k.h5ad --label cell_type --out results
    python benchmarks/quality.py pbmc10k.h5ad --label cell_type --batch batch --out results

Every model gets the same nine tenths of the cells and uses one in ten of those for validation. The evidence of all
models comes from ``pyroscvi.compare`` on the last tenth; ``from_scvi`` converts the weights of scvi-tools. Fits are
stored in the folder and reused.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from common import agreement, publish, read

import pyroscvi as ps
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB

WIDTH, LATENT, MINIBATCH, WARMUP = 128, 10, 128, 0.25


def peer(adata: AnnData, batch: str | None, epochs: int, seed: int, **plan) -> ps.Fit:
    """SCVI of scvi-tools with its own defaults and an NB likelihood, converted to a ``Fit``."""
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(adata, batch_key=batch)
    model = scvi.model.SCVI(adata, n_hidden=WIDTH, n_latent=LATENT, gene_likelihood="nb")
    began = time.monotonic()
    model.train(
        epochs, accelerator="cpu", batch_size=MINIBATCH, plan_kwargs=plan, enable_progress_bar=False, logger=False
    )
    fit = ps.from_scvi(model)
    fit.record["seconds"] = time.monotonic() - began
    return fit


def contestants(adata: AnnData, cells: ps.Cells, batch: str | None, epochs: int, seed: int) -> dict:
    """Functions that make the fit of every row, by the name of the row."""

    def ours(guide):
        return ps.fit(SCVI(likelihood=NB()), guide, cells, epochs=epochs, seed=seed, progress=False)

    return {
        "scvi-tools": lambda: peer(adata, batch, epochs, seed),
        "scvi-tools, KL warm-up that ends": lambda: peer(
            adata, batch, epochs, seed, n_epochs_kl_warmup=max(int(WARMUP * epochs), 1)
        ),
        "SCVI, MeanField": lambda: ours(MeanField()),
        "SCVI, FullCovariance": lambda: ours(FullCovariance()),
    }


def kept(path: Path, make) -> ps.Fit:
    """The fit in this file; it is made first if the file does not exist."""
    if not path.exists():
        fit = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        fit.save(path)
    return ps.load(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an h5ad with counts in X")
    parser.add_argument("--label", required=True, help="column of obs that clusterings are compared with")
    parser.add_argument("--unlabelled", nargs="*", default=[], help="labels that mean an unknown type")
    parser.add_argument("--batch", help="column of obs")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--score", type=int, default=300, help="largest number of held-out cells to score")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    adata = read(options.data, options.batch, options.genes)
    cells = ps.Fields(batch=options.batch).read(adata)
    train, held_out = cells.split(0.1, by="batch" if options.batch else None, seed=options.seed)
    scored = held_out.subset(torch.linspace(0, len(held_out) - 1, min(options.score, len(held_out))).long())
    seen = adata[train.names].copy()
    labels = adata.obs[options.label].astype(str).to_numpy()
    labelled = ~np.isin(labels, [*options.unlabelled, "nan"])

    stem = f"{options.data.stem}-{options.epochs}-{options.seed}"
    fits = {}
    for name, make in contestants(seen, train, options.batch, options.epochs, options.seed).items():
        fits[name] = kept(options.out / "fits" / f"{stem}-{name}.safetensors", make)
        print(name, f"{fits[name].record['seconds']:.0f} s", flush=True)
    compared = ps.compare(fits, scored, options.particles).table
    rows = {name: agreement(fit.latent(cells)[labelled], labels[labelled]) for name, fit in fits.items()}
    table = compared[["evidence", "difference", "kl_weight", "seconds"]].copy()
    table.insert(2, "difference sd", compared["standard_error"])
    table = table.join(pd.DataFrame(rows).T)
    table.index.name = f"{options.data.stem}, {len(scored)} held-out cells"
    about = {name: str(value) for name, value in vars(options).items()} | {"threads": torch.get_num_threads()}
    publish(table, options.out, f"quality-{stem}", about)


if __name__ == "__main__":
    main()
