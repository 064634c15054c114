"""Do mixtures fall onto one component? Clusters that were put there, and cells without any.

    python benchmarks/collapse.py [--seeds 20] [--first 0] [--ways "SCVI, Mixture(5)"] [--alone 3] [--out results]

Five clusters of 200 cells, 150 genes, of which each cluster has twelve markers of its own; counts vary between cells
of a cluster along two programmes of all genes, with the size of a cell, and as a negative binomial does. Every way of
fitting five components is tried on the cells of every seed, which are fitted with that seed. "held" is how many of the
seeds kept 4.5 effective components or more, "least" how many the worst of them kept; the ARI is that of the most
probable component with the clusters.

Then cells of one cluster: five components against a standard normal, each from three seeds, on cells held out.
"ahead" is how many standard errors five are better by: paired over cells, and over the seeds of both.
"""

import argparse
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import markdown, write
from sklearn.metrics import adjusted_rand_score

import pyroscvi as ps
from pyroscvi.comparison.usage import usage
from pyroscvi.evidence.estimator import Importance
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.inference.objectives import Balance, FreeBits
from pyroscvi.models import GMVAE, SCVI
from pyroscvi.parts import NB, Mixture, Random, StandardNormal

KINDS = 5
MIN_COMPONENTS = 4.5


class Unsettled(GMVAE):
    """GMVAE whose components stay where they were drawn."""

    def settle(self, z):
        pass


RANDOM = SCVI(likelihood=NB(), prior=Mixture(KINDS, start=Random()))
WAYS = {
    "SCVI, Mixture(5)": (SCVI(likelihood=NB(), prior=Mixture(KINDS)), ()),
    "SCVI, Mixture(5, start=Random())": (RANDOM, ()),
    "the same, equal=0.3": (SCVI(likelihood=NB(), prior=Mixture(KINDS, start=Random(), equal=0.3)), ()),
    "the same, Balance(5)": (RANDOM, [Balance(5.0)]),
    "the same, FreeBits(10)": (RANDOM, [FreeBits(10.0)]),
    "GMVAE(kinds=5)": (GMVAE(kinds=KINDS), ()),
    "GMVAE(kinds=5), not settled": (Unsettled(kinds=KINDS), ()),
}


def clusters(kinds: int, cells: int, seed: int, genes: int = 150) -> tuple[ps.Cells, np.ndarray]:
    """Counts of clusters of one size, and which cell is of which."""
    r = np.random.default_rng(seed)
    kind = np.arange(cells) % kinds
    marker = r.permutation(genes)[: 12 * kinds].reshape(kinds, 12)
    profile = np.tile(r.normal(0, 1.2, genes), (kinds, 1))
    profile[np.arange(kinds)[:, None], marker] += r.normal(2, 0.5, (kinds, 12))
    programmes = r.normal(0, 0.3, (cells, 2)) @ r.normal(size=(2, genes))
    rate = np.exp(profile[kind] + programmes)
    mu = rate / rate.sum(1, keepdims=True) * r.lognormal(np.log(1.5 * genes), 0.35, (cells, 1))
    return ps.Cells(torch.from_numpy(r.poisson(r.gamma(2.0, mu / 2.0))).float()), kind


HURRIED = {"batch_size": 256, "lr": 1e-2, "device": "cpu", "progress": False}


def kept(name: str, cells: ps.Cells, kind: np.ndarray, seed: int, epochs: int) -> dict[str, object]:
    """What one way of fitting five components uses of them, and how they agree with the clusters."""
    model, objectives = WAYS[name]
    fit = ps.fit(model, MeanField(), cells, objectives=objectives, seed=seed, epochs=epochs, **HURRIED)
    agrees = adjusted_rand_score(kind, fit.describe(cells).logits["k"].argmax(1))
    bound = fit.history["elbo_held_out"].max()
    return {"way": name, "seed": seed, **usage(fit, cells)._asdict(), "ARI": agrees, "held-out bound": bound}


def fitted(seeds: Iterable[int], ways: list[str], cells: int, epochs: int) -> Iterator[dict[str, object]]:
    """Every way of fitting five components on the five clusters of every seed."""
    for seed in seeds:
        made, kind = clusters(KINDS, cells, seed)
        yield from (kept(name, made, kind, seed, epochs) for name in ways)


def ahead(cells: int, scored: int, seed: int, epochs: int, refits: int = 3) -> dict[str, float]:
    """How much better five components do than one where there is one cluster, on cells that were held out."""
    seen, unseen = clusters(1, cells + scored, seed)[0].split(scored / (cells + scored), seed=seed)
    priors = {"one": StandardNormal(), "five": Mixture(KINDS)}
    fits = ps.sweep(
        ps.grid(SCVI(likelihood=NB()), FullCovariance(), prior=priors), seen, seeds=refits, epochs=epochs, **HURRIED
    )
    table = ps.compare(fits, unseen, 500, estimator=Importance()).table
    _, second = table.index
    gain = table.loc[second, "difference"] * (1 if second == "five" else -1)
    error = table.loc[second, "standard_error"]
    found = {"five less one": gain, "s.e.": error, "ahead": gain / error, "over cells": table.loc[second, "over_cells"]}
    for name in ("components", "component_information"):
        found[name.replace("_", " ")] = table.loc["five", name]
    return {"seed": seed, **found}


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, and how many of them kept their components."""
    ways = rows.groupby("way", sort=False)
    table = pd.DataFrame({"held": ways["components"].agg(lambda found: int((found >= MIN_COMPONENTS).sum()))})
    table["least"] = ways["components"].min()
    for column in ("components", "component_information", "ARI", "active_units", "information", "held-out bound"):
        table[column.replace("_", " ")] = ways[column].mean()
    table.index.name = f"five clusters, {rows['seed'].nunique()} seeds"
    return table


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--seeds", type=int, default=20)
    ask.add_argument("--first", type=int, default=0, help="seed")
    ask.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    ask.add_argument("--epochs", type=int, default=60)
    ask.add_argument("--cells", type=int, default=1000)
    ask.add_argument("--alone", type=int, default=3, help="so many data sets of one cluster")
    ask.add_argument("--out", type=Path, default=Path("results"))
    said = ask.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    about = {name: str(value) for name, value in vars(said).items()}

    rows = []
    for row in fitted(range(said.first, said.first + said.seeds), said.ways, said.cells, said.epochs):
        rows.append(row)
        print(f"seed {row['seed']}: {row['way']}: {row['components']:.2f} components", file=sys.stderr, flush=True)
    if rows:
        table = summary(pd.DataFrame(rows))
        write(said.out, "collapse", table, about | {"fits": rows})
        print(markdown(table), "\n")

    alone = [
        ahead(said.cells, said.cells // 3, seed, said.epochs) for seed in range(said.first, said.first + said.alone)
    ]
    if alone:
        table = pd.DataFrame(alone).set_index("seed")
        table.index.name = "one cluster, seed"
        write(said.out, "collapse-one-cluster", table, about)
        print(markdown(table))


if __name__ == "__main__":
    main()
