"""Speed of latents and evidence compared with scvi-tools, and the cost of an enumerated component.

    pip install -e ".[bench]"
    python benchmarks/inference.py --out results                        simulated counts: 20,000 cells, 2,000 genes
    python benchmarks/inference.py pbmc.h5ad --batch batch --out results

The weights are the same on both sides: scvi-tools trains a model, and ``from_scvi`` converts it. The time is processor
time of one thread. Both sides run in turn, round by round, so that other work on the machine affects both equally. A
row has the median of the ratios of a round, their minimum and their maximum. scvi-tools is at its own defaults, or at
the setting that was fastest in a first trial. Peak memory is measured in a separate process, in addition to the memory
that it had before.
"""

import argparse
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pyro
import scvi
import torch
from anndata import AnnData
from common import Peak, drawn, publish, read

import pyroscvi as ps
from pyroscvi.evidence import Importance
from pyroscvi.guides import MeanField
from pyroscvi.handlers import unknown
from pyroscvi.inference.elbo import negative_elbo
from pyroscvi.models import GMVAE, SCVI
from pyroscvi.parts import MLP, NB, Linear, Mixture, OneHot

K, SAMPLES = 10, 1000
PEER, WITHOUT = ("scvi-tools, cells/s", "pyroscvi, cells/s"), ("with, steps/s", "without, steps/s")
PLAIN = {"estimator": Importance()}
QUICK = PLAIN | {"compile": True, "dtype": torch.float32}


def seconds(do: Callable[[], Any]) -> float:
    began = time.process_time()
    do()
    return time.process_time() - began


def in_turn(name: str, first: Callable, second: Callable, rounds: int, count: int, columns: tuple) -> dict[str, Any]:
    """A row of the table: the rates of both, and the time of the first divided by the time of the second."""
    first(), second()
    times = np.array([(seconds(first), seconds(second)) for _ in range(rounds)])
    ratios, rates = times[:, 0] / times[:, 1], count / np.median(times, 0)
    row = {"": name} | dict(zip(columns, rates, strict=True))
    row |= {"ratio": np.median(ratios), "least": ratios.min(), "most": ratios.max()}
    print(*row.values(), flush=True)
    return row


def fastest(settings: list[int], do: Callable[[int], Any]) -> int:
    do(settings[0])
    return min(settings, key=lambda setting: seconds(lambda: do(setting)))


def trained(adata: AnnData, batch: str | None, likelihood: str, epochs: int) -> Any:
    scvi.settings.seed = 0
    scvi.model.SCVI.setup_anndata(adata, batch_key=batch)
    peer = scvi.model.SCVI(adata, n_latent=10, n_hidden=128, gene_likelihood=likelihood)
    peer.train(epochs, accelerator="cpu", batch_size=256, enable_progress_bar=False, logger=False)
    return peer


def of_latents(peer: Any, adata: AnnData, rounds: int) -> list[dict]:
    fit = ps.from_scvi(peer)
    cells, n = fit.read(adata), adata.n_obs
    apart = np.abs(peer.get_latent_representation() - fit.latent(cells)).max()
    print(f"latents differ by {apart:.1e} at most", flush=True)
    best = fastest([512, 1024, 2048, 4096], lambda size: peer.get_latent_representation(batch_size=size))

    def theirs(size: int) -> Callable:
        return lambda: peer.get_latent_representation(batch_size=size)

    def row(name: str, size: int) -> dict:
        return in_turn(name, theirs(size), lambda: fit.latent(cells), rounds, n, PEER)

    return [row("latent, scvi-tools at its default, 128", 128), row(f"latent, scvi-tools at its fastest, {best}", best)]


def of_evidence(peer: Any, adata: AnnData, likelihood: str, n: int, rounds: int) -> list[dict]:
    fit, rows = ps.from_scvi(peer), np.arange(n)
    cells = fit.read(adata).subset(torch.arange(n))

    def theirs(at_once: int, samples: int = SAMPLES) -> Any:
        how = {"n_mc_samples": samples, "n_mc_samples_per_pass": at_once, "return_mean": False, "batch_size": n}
        return peer.get_marginal_ll(adata, indices=rows, **how)

    best = fastest([5, 10, 25, 50, 100], lambda at_once: theirs(at_once, 200))
    double, single = fit.log_evidence(cells, **PLAIN), fit.log_evidence(cells, **QUICK)
    print(f"single precision is off by {np.abs(double - single).max():.1e} nats at most", flush=True)
    name = f"evidence, {likelihood.upper()}, K = {SAMPLES:,}"

    def row(about: str, **how: Any) -> dict:
        def ours() -> Any:
            return fit.log_evidence(cells, **how)

        return in_turn(f"{name}, {about}", lambda: theirs(best), ours, rounds, n, PEER)

    return [
        row("float64", **PLAIN),
        row("float64, compiled", **PLAIN, compile=True),
        row(f"float32, compiled (scvi-tools {best} at once)", **QUICK),
    ]


class Step:
    """One step of training on one minibatch."""

    def __init__(self, model: ps.models.SCVI, cells: ps.Cells, size: int, hidden: str | None = None):
        minibatch = cells.take(torch.arange(size))
        self.cells, self.hidden = replace(minibatch, counts=minibatch.x), hidden
        torch.manual_seed(0)
        self.model = model.sized(cells.dims)
        self.guide = MeanField().sized(self.model, self.cells)
        self.adam = torch.optim.Adam([*self.model.parameters(), *self.guide.parameters()], lr=1e-3, fused=True)

    def __call__(self) -> None:
        with pyro.validation_enabled(False):
            if self.hidden is None:
                loss = negative_elbo(self.model, self.guide, self.cells)
            else:
                with unknown(self.hidden, torch.zeros(K)):
                    loss = negative_elbo(self.model, self.guide, self.cells)
        self.adam.zero_grad()
        (loss / len(self.cells)).backward()
        self.adam.step()


def of_enumeration(adata: AnnData, batch: str | None, rounds: int) -> list[dict]:
    cells = ps.Fields(batch=batch).read(adata)
    levels = {**cells.levels, "kind": tuple(map(str, range(K)))}
    cells = replace(cells, categories={**cells.categories, "kind": torch.arange(len(cells)) % K}, levels=levels)
    nb, rows = NB(), []
    deep, linear = ({"condition": OneHot("kind"), "likelihood": nb, "decoder": d} for d in (MLP(), Linear()))
    pairs: dict[str, tuple] = {
        "in the prior, GMVAE": (GMVAE(kinds=K), SCVI(decoder=Linear(), likelihood=nb), None),
        "in the prior, Mixture": (SCVI(prior=Mixture(K), likelihood=nb), SCVI(likelihood=nb), None),
        "in the decoder, an unknown condition": (SCVI(**deep), SCVI(**deep), "kind"),
        "in a linear decoder, an unknown condition": (SCVI(**linear), SCVI(**linear), "kind"),
    }
    for name, (with_it, without, hidden) in pairs.items():
        for size in (128, 1024):
            first, second = Step(with_it, cells, size, hidden), Step(without, cells, size)
            turns = rounds * 4 if size > 128 else rounds * 12  # single steps vary more
            rows.append(in_turn(f"{K} components {name}, minibatch {size}", first, second, turns, 1, WITHOUT))
    return rows


def of_memory(peer: Any, adata: AnnData, likelihood: str, n: int) -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        peer.save(f"{folder}/peer")
        ps.from_scvi(peer).save(f"{folder}/fit.safetensors")
        adata[:n].copy().write_h5ad(f"{folder}/cells.h5ad")
        settings: dict[str, dict[str, Any]] = {
            **{f'memory="{memory}"': {"memory": memory, **QUICK} for memory in ("64MB", "256MB", "1GB")},
            'memory="256MB", float64': {"memory": "256MB", **PLAIN},
            "scvi-tools, 50 at once": {"n_mc_samples_per_pass": 50},
        }
        for name, how in settings.items():
            with multiprocessing.get_context("spawn").Pool(1) as alone:
                peak = alone.apply(held, (folder, n, how))
            rows.append({"": f"evidence, {likelihood.upper()}, {n} cells, {name}", "peak, MB": peak / 1e6})
            print(*rows[-1].values(), flush=True)
    return rows


def held(folder: str, n: int, how: dict[str, Any]) -> int:
    """Bytes that this process holds during an evidence, in addition to those before it."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    adata = ad.read_h5ad(f"{folder}/cells.h5ad")
    if "memory" in how:
        fit = ps.load(f"{folder}/fit.safetensors")
        cells = fit.read(adata)

        def run(samples: int, cells: ps.Cells) -> Any:
            return fit.log_evidence(cells, particles=samples, **how)

        few = cells.subset(torch.arange(2))
    else:
        peer, cells, few = scvi.model.SCVI.load(f"{folder}/peer", adata), np.arange(n), np.arange(2)

        def run(samples: int, cells: Any) -> Any:
            return peer.get_marginal_ll(adata, indices=cells, n_mc_samples=samples, batch_size=n, **how)

    run(50, few)  # loads code and constants
    with Peak() as peak:
        run(SAMPLES, cells)
    return peak.bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="an h5ad with counts in X; by default counts are simulated")
    parser.add_argument("--batch", default=None, help="column of obs")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--score", type=int, default=32, help="number of cells whose evidence is computed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    batch = options.batch if options.data else "batch"
    adata = read(options.data, batch, options.genes) if options.data else drawn(20_000, options.genes)
    peers = {likelihood: trained(adata, batch, likelihood, options.epochs) for likelihood in ("nb", "zinb")}
    speed = of_latents(peers["nb"], adata, options.rounds)
    for likelihood, peer in peers.items():
        speed += of_evidence(peer, adata, likelihood, options.score, options.rounds)
    tables = {"inference": speed, "inference-memory": of_memory(peers["zinb"], adata, "zinb", 128)}
    tables["enumeration"] = of_enumeration(adata, batch, options.rounds)
    about = {name: str(value) for name, value in vars(options).items()} | {"threads": torch.get_num_threads()}
    for name, rows in tables.items():
        table = pd.DataFrame(rows).set_index("")
        publish(table, options.out, name, about)


if __name__ == "__main__":
    main()
