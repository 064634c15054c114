"""Held-out evidence and clusterings of SCVI beside those of scvi-tools: same cells, genes, sizes of networks, epochs.

    pip install -e ".[bench]"
    python benchmarks/quality.py pbmc3k.h5ad --label cell_type --out results
    python benchmarks/quality.py pbmc10k.h5ad --label cell_type --batch batch --out results

Every model sees the same nine tenths of the cells and keeps one in ten of those for itself to validate on. Evidence is
that of ``pyroscvi.compare`` on the last tenth, for all, with the weights of scvi-tools carried over by ``from_scvi``.
Fits are kept in the folder and not made again.
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
from common import agreement, markdown, read, write

import pyroscvi as ps
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB

WIDTH, LATENT, MINIBATCH, WARMUP = 128, 10, 128, 0.25


def peer(adata: AnnData, batch: str | None, epochs: int, seed: int, **plan) -> ps.Fit:
    """SCVI of scvi-tools with its own defaults and an NB likelihood."""
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
    """How every row of the table is made."""

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
    """The fit in this file, made first if it is not there."""
    if not path.exists():
        fit = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        fit.save(path)
    return ps.load(path)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("data", type=Path, help="an h5ad with counts in X")
    ask.add_argument("--label", required=True, help="column of obs that clusterings are compared with")
    ask.add_argument("--unlabelled", nargs="*", default=[], help="labels that mean that there is none")
    ask.add_argument("--batch", help="column of obs")
    ask.add_argument("--genes", type=int, default=2000)
    ask.add_argument("--epochs", type=int, default=400)
    ask.add_argument("--particles", type=int, default=1000)
    ask.add_argument("--score", type=int, default=300, help="at most so many held-out cells are scored")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--out", type=Path, default=Path("results"))
    said = ask.parse_args()
    warnings.simplefilter("ignore")

    adata = read(said.data, said.batch, said.genes)
    cells = ps.Fields(batch=said.batch).read(adata)
    train, held_out = cells.split(0.1, by="batch" if said.batch else None, seed=said.seed)
    scored = held_out.subset(torch.linspace(0, len(held_out) - 1, min(said.score, len(held_out))).long())
    seen = adata[train.names].copy()
    labels = adata.obs[said.label].astype(str).to_numpy()
    labelled = ~np.isin(labels, [*said.unlabelled, "nan"])

    stem = f"{said.data.stem}-{said.epochs}-{said.seed}"
    fits = {}
    for name, make in contestants(seen, train, said.batch, said.epochs, said.seed).items():
        fits[name] = kept(said.out / "fits" / f"{stem}-{name}.safetensors", make)
        print(name, f"{fits[name].record['seconds']:.0f} s", flush=True)
    compared = ps.compare(fits, scored, said.particles).table
    rows = {name: agreement(fit.latent(cells)[labelled], labels[labelled]) for name, fit in fits.items()}
    table = compared[["evidence", "difference", "kl_weight", "seconds"]].copy()
    table.insert(2, "difference sd", compared["standard_error"])
    table = table.join(pd.DataFrame(rows).T)
    table.index.name = f"{said.data.stem}, {len(scored)} held-out cells"
    about = {name: str(value) for name, value in vars(said).items()} | {"threads": torch.get_num_threads()}
    write(said.out, f"quality-{stem}", table, about)
    print(markdown(table))


if __name__ == "__main__":
    main()
