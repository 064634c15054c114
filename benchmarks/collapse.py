"""Do mixtures collapse onto one component? Fits of simulated clusters, and of cells without clusters.

    python benchmarks/collapse.py [--seeds 20] [--first 0] [--ways "SCVI, Mixture(5)"] [--alone 3] [--out results]

The data have five clusters of 200 cells and 150 genes, and each cluster has twelve marker genes. Cells of a cluster
differ along two programmes of all genes and in size, and counts are negative binomial. Every way of fitting five
components is applied to the cells of every seed, with that seed. "held" is the number of seeds that kept 4.5 effective
components or more, "least" is the smallest number of effective components, and the ARI compares the most probable
component with the clusters.

Then cells of one cluster: five components against a standard normal, each from three seeds, on held-out cells.
"ahead" is the lead of five components in standard errors: paired over cells, and over the seeds of both.
"""

import argparse
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import publish
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
    """A GMVAE whose components keep their random starts."""

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
    """Cells of clusters of equal size, and the cluster of each cell."""
    r = np.random.default_rng(seed)
    kind = np.arange(cells) % kinds
    marker = r.permutation(genes)[: 12 * kinds].reshape(kinds, 12)
    profile = np.tile(r.normal(0, 1.2, genes), (kinds, 1))
    profile[np.arange(kinds)[:, None], marker] += r.normal(2, 0.5, (kinds, 12))
    programmes = r.normal(0, 0.3, (cells, 2)) @ r.normal(size=(2, genes))
    rate = np.exp(profile[kind] + programmes)
    mu = rate / rate.sum(1, keepdims=True) * r.lognormal(np.log(1.5 * genes), 0.35, (cells, 1))
    return ps.Cells(torch.from_numpy(r.poisson(r.gamma(2.0, mu / 2.0))).float()), kind


SETTINGS = {"batch_size": 256, "lr": 1e-2, "device": "cpu", "progress": False}


def kept(name: str, cells: ps.Cells, kind: np.ndarray, seed: int, epochs: int) -> dict[str, object]:
    """Row of one fit: the components that it uses, and their agreement with the clusters."""
    model, objectives = WAYS[name]
    fit = ps.fit(model, MeanField(), cells, objectives=objectives, seed=seed, epochs=epochs, **SETTINGS)
    agrees = adjusted_rand_score(kind, fit.describe(cells).logits["k"].argmax(1))
    bound = fit.history["elbo_held_out"].max()
    return {"way": name, "seed": seed, **usage(fit, cells)._asdict(), "ARI": agrees, "held-out bound": bound}


def fitted(seeds: Iterable[int], ways: list[str], cells: int, epochs: int) -> Iterator[dict[str, object]]:
    """Every way of fitting five components on the five clusters of every seed."""
    for seed in seeds:
        made, kind = clusters(KINDS, cells, seed)
        yield from (kept(name, made, kind, seed, epochs) for name in ways)


def ahead(cells: int, scored: int, seed: int, epochs: int, refits: int = 3) -> dict[str, float]:
    """Row of one data set with a single cluster: evidence of five components minus that of one, on held-out cells."""
    seen, unseen = clusters(1, cells + scored, seed)[0].split(scored / (cells + scored), seed=seed)
    priors = {"one": StandardNormal(), "five": Mixture(KINDS)}
    fits = ps.sweep(
        ps.grid(SCVI(likelihood=NB()), FullCovariance(), prior=priors), seen, seeds=refits, epochs=epochs, **SETTINGS
    )
    table = ps.compare(fits, unseen, 500, estimator=Importance()).table
    _, second = table.index
    gain = table.loc[second, "difference"] * (1 if second == "five" else -1)
    error = table.loc[second, "standard_error"]
    row = {"five minus one": gain, "s.e.": error, "ahead": gain / error, "over cells": table.loc[second, "over_cells"]}
    for name in ("components", "component_information"):
        row[name.replace("_", " ")] = table.loc["five", name]
    return {"seed": seed, **row}


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, and how many of them kept their components."""
    ways = rows.groupby("way", sort=False)
    table = pd.DataFrame({"held": ways["components"].agg(lambda kept: int((kept >= MIN_COMPONENTS).sum()))})
    table["least"] = ways["components"].min()
    for column in ("components", "component_information", "ARI", "active_units", "information", "held-out bound"):
        table[column.replace("_", " ")] = ways[column].mean()
    table.index.name = f"five clusters, {rows['seed'].nunique()} seeds"
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--alone", type=int, default=3, help="number of data sets of one cluster")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    about = {name: str(value) for name, value in vars(options).items()}

    rows = []
    for row in fitted(range(options.first, options.first + options.seeds), options.ways, options.cells, options.epochs):
        rows.append(row)
        print(f"seed {row['seed']}: {row['way']}: {row['components']:.2f} components", file=sys.stderr, flush=True)
    if rows:
        table = summary(pd.DataFrame(rows))
        publish(table, options.out, "collapse", about | {"fits": rows})

    seeds = range(options.first, options.first + options.alone)
    alone = [ahead(options.cells, options.cells // 3, seed, options.epochs) for seed in seeds]
    if alone:
        table = pd.DataFrame(alone).set_index("seed")
        table.index.name = "one cluster, seed"
        publish(table, options.out, "collapse-one-cluster", about)


if __name__ == "__main__":
    main()
