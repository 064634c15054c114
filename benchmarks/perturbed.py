"""Perturbed beside baselines that are hard to beat: evidence of held-out cells, and predicted mean changes.

    python benchmarks/perturbed.py kang kang_ifnb_muscat.h5ad
    python benchmarks/perturbed.py papalexi papalexi_eccite_lowmoi.h5ad --cells 1500

kang      stimulated cells of one type are held out, and the change of that type is predicted from the other types
papalexi  half of the cells of every perturbation are held out, and its change is predicted from the other half

A change is the difference of log mean shares, log(1e4 share + 1), between perturbed and control cells of the same type.
The baselines are: no change (control mean); the mean change of the other types or perturbations (additive); the change
of the nearest of them (by the profile of control cells, or by the change itself); and the change of the other half.
"""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from anndata import AnnData

import pyroscvi as ps
from pyroscvi.data.datasets import highly_variable
from pyroscvi.guides import MeanField
from pyroscvi.models import CVAE, SCVI, Perturbed
from pyroscvi.parts import NB, HorseshoeLoadings, Nothing, OneHot, Perturbation

EPOCHS = 60


def logs(counts: np.ndarray) -> np.ndarray:
    """log(1e4 share + 1) of every gene in the sum of these counts or rates [n, g]."""
    total = np.asarray(counts.sum(0)).ravel()
    return np.log1p(1e4 * total / total.sum())


def pages(field: str, control: str, condition: OneHot | Nothing) -> dict[str, ps.models.SCVI]:
    """The fits to compare: without perturbations, with them in the decoder, and with sparse effects."""
    perturbation = Perturbation(field, control=control)
    return {
        "scvi (control mean)": SCVI(condition=condition, likelihood=NB()),
        "cvae": CVAE(condition=condition + OneHot(field)),
        "perturbed": Perturbed(condition=condition, perturbation=perturbation),
        "perturbed, horseshoe": Perturbed(
            condition=condition, perturbation=perturbation, effects=HorseshoeLoadings(tau=0.1)
        ),
    }


def predicted(fit: ps.Fit, cells: AnnData, field: str, level: str, control: str) -> np.ndarray:
    """The change of these control cells if they had this perturbation."""
    one, other = (fit.denoise(cells, given={field: name}) for name in (level, control))
    return logs(one) - logs(other)


def score(change: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Root of the mean squared error over genes, and the correlation."""
    flat = not change.std()
    return {
        "rmse": float(np.sqrt(((change - truth) ** 2).mean())),
        "r": 0.0 if flat else np.corrcoef(change, truth)[0, 1],
    }


def report(fits: dict[str, ps.Fit], held: AnnData, changes: dict[str, list], truths: list) -> None:
    """Print both tables."""
    rows = {}
    for name, fit in fits.items():
        rows[name] = {"evidence": ps.log_evidence(fit, held, progress=False).mean()}
    for name, several in changes.items():
        scores = pd.DataFrame([score(change, truth) for change, truth in zip(several, truths, strict=True)]).mean()
        rows.setdefault(name, {}).update(scores)
    print(pd.DataFrame(rows).T.round(3).to_string(), flush=True)


def kang(adata: AnnData, target: str) -> None:
    of_type, stim = adata.obs["cell_type"].astype(str) == target, adata.obs["condition"] == "stim"
    seen = adata[~(of_type & stim)].copy()
    rng = np.random.default_rng(0)
    held = rng.random(seen.n_obs) < 0.1
    fields = ps.Fields(batch="donor", categories=("condition", "cell_type"))
    cells = fields.read(seen[~held].copy())
    condition = OneHot("batch") + OneHot("cell_type")
    fits = {
        name: ps.fit(page, MeanField(), cells, epochs=EPOCHS, progress=False)
        for name, page in pages("condition", "ctrl", condition).items()
    }
    x, types = adata.X.toarray(), sorted(set(adata.obs["cell_type"]) - {target})
    of = {kind: (adata.obs["cell_type"] == kind).to_numpy() for kind in [*types, target]}
    s = stim.to_numpy()
    own = {kind: logs(x[of[kind] & s]) - logs(x[of[kind] & ~s]) for kind in of}
    near = min(types, key=lambda kind: ((logs(x[of[kind] & ~s]) - logs(x[of[target] & ~s])) ** 2).sum())
    changes = {"no change": [0 * own[target]], "additive": [np.mean([own[kind] for kind in types], 0)]}
    changes[f"nearest ({near})"] = [own[near]]
    control = adata[of[target] & ~s].copy()
    for name, fit in list(fits.items())[1:]:
        changes[name] = [predicted(fit, control, "condition", "stim", "ctrl")]
    print(f"kang, stimulated {target} held out; {len(cells)} cells trained on, {held.sum()} held out")
    report(fits, seen[held].copy(), changes, [own[target]])


def papalexi(adata: AnnData) -> None:
    control, field = "non-targeting", "perturbation"
    half = np.random.default_rng(0).random(adata.n_obs) < 0.5
    cells = ps.Fields(batch="bio_rep", categories=(field,)).read(adata[half].copy())
    fits = {
        name: ps.fit(page, MeanField(), cells, epochs=EPOCHS, progress=False)
        for name, page in pages(field, control, OneHot("batch")).items()
    }
    x, level = adata.X.toarray(), adata.obs[field].astype(str).to_numpy()
    names = sorted(set(level) - {control})

    def change(name: str, rows: np.ndarray) -> np.ndarray:
        return logs(x[rows & (level == name)]) - logs(x[rows & (level == control)])

    known = {name: change(name, half) for name in names}
    others = {name: [known[other] for other in names if other != name] for name in names}
    changes = {
        "no change": [0 * known[name] for name in names],
        "additive": [np.mean(others[name], 0) for name in names],
        "nearest": [min(others[name], key=lambda c, own=known[name]: ((c - own) ** 2).sum()) for name in names],
        "change of the other half": list(known.values()),
    }
    of_control = adata[half & (level == control)].copy()
    for name, fit in list(fits.items())[1:]:
        changes[name] = [predicted(fit, of_control, field, perturbed, control) for perturbed in names]
    print(f"papalexi, {len(names)} perturbations; {len(cells)} cells trained on")
    some = np.flatnonzero(~half)[:150]
    report(fits, adata[some].copy(), changes, [change(name, ~half) for name in names])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("kang", "papalexi"))
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--type", default="CD4 T cells", help="of Kang's cells: the type whose stimulated cells are held out"
    )
    parser.add_argument("--cells", type=int, default=1500, help="a subset of this many cells")
    parser.add_argument("--genes", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    adata = ad.read_h5ad(options.data)
    if options.name == "papalexi":
        counts = adata.obs["perturbation"].value_counts()
        adata = adata[adata.obs["perturbation"].isin(counts.index[:11])]
    rows = np.sort(np.random.default_rng(1).permutation(adata.n_obs)[: options.cells])
    adata = adata[rows].copy()
    adata.obs = adata.obs.astype({name: str for name in adata.obs if adata.obs[name].dtype == "category"})
    if adata.n_vars > options.genes:
        adata = adata[:, list(highly_variable(adata, options.genes))]
    adata = adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()
    kang(adata, options.type) if options.name == "kang" else papalexi(adata)


if __name__ == "__main__":
    main()
