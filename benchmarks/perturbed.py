"""Perturbed beside baselines that are hard to beat: evidence of held-out cells, and predicted mean changes.

    python benchmarks/perturbed.py kang kang_ifnb_muscat.h5ad
    python benchmarks/perturbed.py papalexi papalexi_eccite_lowmoi.h5ad --cells 4000

kang      stimulated cells of one type are held out, and the change of that type is predicted from the other types; each
          type in turn
papalexi  half of the cells of every perturbation are held out, and its change is predicted from the other half

A change is the difference of log mean shares, log(1e4 share + 1), between perturbed and control cells of the same type.
The baselines are pages: the average of all cells (control mean), and effects added to the average (additive); and
predictions of changes (``pyroscvi.analysis.baselines``): none, the mean of other types or perturbations, and that of
the nearest of them, by the profile of control cells or by the change itself. A run takes some minutes of one core.
"""

import argparse
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from common import publish

import pyroscvi as ps
from pyroscvi.analysis.baselines import baselines
from pyroscvi.data.datasets import highly_variable
from pyroscvi.guides import MeanField
from pyroscvi.models import CVAE, SCVI, Perturbed
from pyroscvi.parts import NB, Condition, HorseshoeLoadings, NormalLoadings, OneHot, Perturbation, Profile
from pyroscvi.program import Model

SCORED = 50  # held-out cells whose evidence is estimated


def logs(counts: np.ndarray) -> np.ndarray:
    """log(1e4 share + 1) of every gene in the sum of these counts or rates [n, g]."""
    total = np.asarray(counts.sum(0)).ravel()
    return np.log1p(1e4 * total / total.sum())


def pages(field: str, control: str, condition: Condition) -> dict[str, Model]:
    """The fits to compare: without perturbations, with effects on the average, in the decoder, and sparse ones."""
    how = {"condition": condition, "perturbation": Perturbation(field, control=control)}
    return {
        "average of all cells": SCVI(condition=condition, decoder=Profile(), likelihood=NB()),
        "effects on the average": Perturbed(decoder=Profile(), effects=NormalLoadings(s=1.0), **how),
        "`scvi` without perturbations": SCVI(condition=condition, likelihood=NB()),
        "`cvae`": CVAE(condition=condition + OneHot(field)),
        "`perturbed`, spike and slab": Perturbed(**how),
        "`perturbed`, horseshoe": Perturbed(effects=HorseshoeLoadings(tau=0.1), **how),
    }


def fitted(declared: dict[str, Model], cells: ps.Cells, epochs: int) -> dict[str, ps.Fit]:
    fits = {}
    for name, page in declared.items():
        began = time.process_time()
        fits[name] = ps.fit(page, MeanField(), cells, epochs=epochs, progress=False)
        print(f"  {name}: {time.process_time() - began:.0f} s of processor time", flush=True)
    return fits


def predicted(fit: ps.Fit, cells: AnnData, field: str, level: str, control: str) -> np.ndarray:
    """The change of these control cells if they had this perturbation; 0 where the page reads none."""
    if isinstance(fit.model, SCVI):
        return np.zeros(len(fit.genes))
    one, other = (fit.denoise(cells, given={field: name}) for name in (level, control))
    return logs(one) - logs(other)


def score(name: str, change: np.ndarray, truth: np.ndarray) -> dict[str, str | float]:
    """Root of the mean squared error over genes, and the correlation."""
    rmse = np.sqrt(((change - truth) ** 2).mean())
    return {"name": name, "rmse": rmse, "r": np.corrcoef(change, truth)[0, 1] if change.std() else np.nan}


def evidences(fits: dict[str, ps.Fit], held: AnnData) -> list[dict[str, str | float]]:
    """Evidence of held-out cells, each minus that of ``scvi`` for the same cell."""
    log_p = {name: ps.log_evidence(fit, held, progress=False) for name, fit in fits.items()}
    before = log_p["`scvi` without perturbations"]
    return [{"name": name, "evidence": (p - before).mean(), "n": len(p)} for name, p in log_p.items()]


def kang(adata: AnnData, epochs: int) -> tuple[list, list]:
    x, kind = adata.X.toarray(), adata.obs["cell_type"].to_numpy()
    stim, rows, scores = (adata.obs["condition"] == "stim").to_numpy(), [], []
    kinds = sorted(set(kind))
    own = {k: logs(x[(kind == k) & stim]) - logs(x[(kind == k) & ~stim]) for k in kinds}
    profile = {k: logs(x[(kind == k) & ~stim]) for k in kinds}
    fields = ps.Fields(batch="donor", categories=("condition", "cell_type"))
    for target in kinds:
        seen = adata[~((kind == target) & stim)].copy()
        held = np.isin(np.arange(len(seen)), np.random.default_rng(0).permutation(len(seen))[:SCORED])
        cells = fields.read(seen[~held].copy())
        print(f"stimulated {target} held out: {len(cells)} cells to fit to", flush=True)
        fits = fitted(pages("condition", "ctrl", OneHot("batch") + OneHot("cell_type")), cells, epochs)
        rows += evidences(fits, seen[held].copy())
        control = adata[(kind == target) & ~stim].copy()
        for name, change in baselines(own, profile, target).items():
            scores.append(score(name, change, own[target]))
        for name, fit in fits.items():
            scores.append(score(name, predicted(fit, control, "condition", "stim", "ctrl"), own[target]))
    return rows, scores


def papalexi(adata: AnnData, epochs: int) -> tuple[list, list]:
    control, field, scores = "non-targeting", "perturbation", []
    half = np.random.default_rng(0).random(adata.n_obs) < 0.5
    cells = ps.Fields(batch="bio_rep", categories=(field,)).read(adata[half].copy())
    x, level = adata.X.toarray(), adata.obs[field].to_numpy()
    names = sorted(set(level) - {control})
    print(f"{len(names)} perturbations: {len(cells)} cells to fit to", flush=True)
    fits = fitted(pages(field, control, OneHot("batch")), cells, epochs)

    def change(name: str, rows: np.ndarray) -> np.ndarray:
        return logs(x[rows & (level == name)]) - logs(x[rows & (level == control)])

    known = {name: change(name, half) for name in names}
    of_control = adata[half & (level == control)].copy()
    for name in names:
        truth = change(name, ~half)
        predictions = baselines(known, known, name)
        predictions["change of the other half"] = known[name]
        predictions |= {page: predicted(fit, of_control, field, name, control) for page, fit in fits.items()}
        scores += [score(page, value, truth) for page, value in predictions.items()]
    return evidences(fits, adata[np.flatnonzero(~half)[:SCORED]].copy()), scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("kang", "papalexi"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--cells", type=int, default=800, help="a subset of this many cells")
    parser.add_argument("--genes", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--perturbations", type=int, default=11, help="of Papalexi's: the most frequent, and controls")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    adata = ad.read_h5ad(options.data)
    if options.name == "papalexi":
        frequent = adata.obs["perturbation"].value_counts().index[: options.perturbations]
        adata = adata[adata.obs["perturbation"].isin(frequent)]
    rows = np.sort(np.random.default_rng(1).permutation(adata.n_obs)[: options.cells])
    adata = adata[rows].copy()
    adata.obs = adata.obs.astype({name: str for name in adata.obs if adata.obs[name].dtype == "category"})
    if adata.n_vars > options.genes:
        adata = adata[:, list(highly_variable(adata, options.genes))]
    adata = adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()
    evidence, scores = (kang if options.name == "kang" else papalexi)(adata, options.epochs)
    of_pages, by_name = pd.DataFrame(evidence).groupby("name", sort=False), pd.DataFrame(scores).groupby("name")
    table = by_name[["rmse", "r"]].mean().join(by_name[["rmse"]].std(), rsuffix=" sd").sort_values("rmse")
    table = table.join(of_pages["evidence"].mean().rename("evidence minus scvi"))
    publish(table, options.out, f"perturbed-{options.name}", {key: str(value) for key, value in vars(options).items()})


if __name__ == "__main__":
    main()
