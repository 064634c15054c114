"""Results of comparisons with known numbers, for tests of tables, words and pictures."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from pyroscvi.comparison.result import Comparison, FitSummary, GeneComparison

NAMES = ["nb, latent 5", "zinb, latent 5", "nb, latent 10", "poisson"]


def four_fits() -> Comparison:
    """Four fits of 120 cells of three types."""
    rng = np.random.default_rng(0)
    n = 120
    base = -500 + 50 * rng.normal(size=n)
    log_p = {name: base - behind + rng.normal(size=n) for name, behind in zip(NAMES, (0, 0.1, 1, 9), strict=True)}
    mean = {name: values.mean() for name, values in log_p.items()}
    difference = [mean[name] - mean[NAMES[0]] for name in NAMES]
    table = pd.DataFrame(
        {
            "evidence": list(mean.values()),
            "difference": difference,
            "standard_error": [0.0, 0.2, 0.25, 0.5],
            "over_cells": [0.0, 0.1, 0.1, 0.2],
            "over_clusters": [0.0, 0.2, 0.25, 0.5],
            "monte_carlo": [0.0, 0.01, 0.02, 0.01],
            "verdict": ["best", "indistinguishable", "told apart", "told apart"],
            "interval": [0.0, 0.4, 0.5, 1.0],
            "seed_sd": [0.1, 0.2, 0.1, 0.05],
            "seeds": 3,
            "converged": True,
            "weight": [0.6, 0.3, 0.1, 0.0],
            "estimand": "p(x | l)",
            "heavy_tailed": [0.0, 0.0, 0.25, 0.0],
            "active_units": [5.0, 4.0, 7.0, np.nan],
            "information": [4.1, 3.9, 4.3, np.nan],
            "components": [np.nan, np.nan, np.nan, 3.2],
            "component_information": [np.nan, np.nan, np.nan, 0.02],
            "kl_weight": [1.0, 1.0, 0.5, np.nan],
            "parameters": [1000, 2000, 1500, 10],
            "seconds": [3.0, 4.0, 5.0, np.nan],
            "certificate": ["certified (gap 0.01)", "certified (gap 0.02)", "uncertified (gap 3)", "exact"],
        },
        index=pd.Index(NAMES, name="fit"),
    )
    levels = {"label": np.array(["T", "B", "NK <&>"])[np.arange(n) % 3], "donor": "d"}
    parts = {
        "cell": {"library_size": rng.integers(200, 9000, n), **levels},
        "log_evidence": log_p,
        "monte_carlo_se": dict.fromkeys(NAMES, 0.1),
    }
    index = pd.Index([f"cell{i}" for i in range(n)], name="cell")
    record = {"seed": 0, "epochs": 40, "best_epoch": 31, "cells": {"train": 900, "held_out": 100}}
    fits = {
        NAMES[0]: FitSummary("SCVI(latent=5, likelihood=NB())", "MeanField()", 5, [record]),
        NAMES[1]: FitSummary("SCVI(latent=5)", "MeanField()", 5, [{}]),
        NAMES[2]: FitSummary("SCVI(likelihood=NB())", "MeanField()", 10, [{}]),
        NAMES[3]: FitSummary("PoissonLogNormal()", "MeanField()", None, [{}]),
    }
    by_cell = pd.concat({name: pd.DataFrame(part, index=index) for name, part in parts.items()}, axis=1)
    return Comparison(table, by_cell, fits, genes=2000, particles=100, by="donor", clusters=6)


def renamed(result: Comparison, names: Sequence[str]) -> Comparison:
    """The same results under other names, in the order of the table."""
    new = dict(zip(result.table.index, names, strict=True))
    fits = {new[name]: fit for name, fit in result.fits.items()}
    by_cell = result.by_cell.rename(columns=new, level=1)
    return replace(result, table=result.table.rename(index=new), by_cell=by_cell, fits=fits)


def with_seeds(result: Comparison, **seeds: int) -> Comparison:
    """The same results, with so many seeds of the fits that are named."""
    fits = {name: fit._replace(seeds=fit.seeds[:1] * seeds.get(name, 1)) for name, fit in result.fits.items()}
    table = result.table.assign(seeds=[len(fits[name].seeds) for name in result.table.index])
    return replace(result, fits=fits, table=table)


def two_genes_apart() -> GeneComparison:
    """Five genes, of which ``zinb`` predicts two better and ``nb`` one."""
    table = pd.DataFrame(
        {
            "predicted": [30.0, 6.0, 1.0, -2.0, -8.0],
            "predicted_error": [5.0, 1.0, 2.0, 3.0, 1.0],
            "zeros": [0.5, 0.1, 0.9, 0.8, 0.0],
            "mean": [1.0, 20.0, 0.1, 0.2, 30.0],
            "q_value": [1e-8, 1e-7, 0.6, 0.7, 1e-9],
            "verdict": ["zinb", "zinb", "indistinguishable", "indistinguishable", "nb"],
        },
        index=pd.Index(["IL7R", "MALAT1", "CD3E", "LYZ", "ACTB"], name="gene"),
    )
    return GeneComparison(table, "zinb", "nb", 120)
