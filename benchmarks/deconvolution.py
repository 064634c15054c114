"""Spots mixed out of sorted blood cells: their proportions, the types that are present, and what evidence says.

    python benchmarks/deconvolution.py pbmc_facs_zheng2017.h5ad

Half of the cells of every type are the reference. A spot is the sum of some of the other cells: of one to three of five
types, in random proportions, thinned to the total of one cell. Signatures come from the reference. The baseline is
non-negative least squares on shares. Then the same spots are fitted with references of other types: with evidences, the
reference that has all types of the tissue, and no others, should not lose.
"""

import argparse
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy.optimize import nnls

import pyroscvi as ps
from pyroscvi.guides import MeanField
from pyroscvi.models import Deconvolution
from pyroscvi.parts import Sparse

TYPES = 5  # of the tissue
SIZE = 2000.0  # counts of a spot


def spots_of(x: np.ndarray, label: np.ndarray, types: list[str], n: int, rng: np.random.Generator) -> tuple:
    """Counts of n spots [n, g], and the proportions of the types in them [n, types]."""
    w = np.zeros((n, len(types)))
    counts = np.zeros((n, x.shape[1]), np.float32)
    for i in range(n):
        chosen = rng.choice(len(types), rng.integers(1, 4), replace=False)
        w[i, chosen] = rng.dirichlet(np.full(len(chosen), 3.0))
        mean = np.zeros(x.shape[1])
        for f in chosen:
            cells = x[rng.choice(np.flatnonzero(label == types[f]), 5)].sum(0)
            mean += w[i, f] * cells / cells.sum()
        counts[i] = rng.poisson(SIZE * mean)
    return counts, w


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an h5ad with counts in X, obs['cell_type'] and var['hvg_rank']")
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--spots", type=int, default=300)
    parser.add_argument("--scored", type=int, default=50, help="spots whose evidence is taken")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(options.seed)
    adata = ad.read_h5ad(options.data)
    adata = adata[:, adata.var["hvg_rank"] < options.genes].copy()
    half = rng.random(adata.n_obs) < 0.5
    cells = ps.Fields(label="cell_type").read(adata[half].copy(), empty="drop")
    table = ps.signatures(cells)
    names = sorted(table.index)
    tissue = [names[i] for i in np.linspace(0, len(names) - 1, TYPES).round().astype(int)]
    others = [name for name in names if name not in tissue]
    x, label = adata.X[~half].toarray(), adata.obs["cell_type"].astype(str).to_numpy()[~half]
    x, label = x[x.sum(1) > 0], label[x.sum(1) > 0]
    counts, w = spots_of(x, label, tissue, options.spots, rng)
    spots = ps.Cells(torch.as_tensor(counts), genes=tuple(adata.var_names))
    held_out = spots.subset(torch.arange(options.scored))
    print(f"tissue: {', '.join(tissue)}; {options.spots} spots of one to three of these types, {options.genes} genes")

    def fitted(types: list[str], expected: float = 2.0) -> ps.Fit:
        page = Deconvolution(prior=Sparse(types=expected)).known(table.loc[types], spots)
        return ps.fit(page, MeanField(), spots, epochs=options.epochs, batch_size=100, lr=2e-2, progress=False)

    started = time.process_time()
    fit = fitted(names)
    proportions = fit.proportions(spots).set_axis(names, axis=1)
    presence = fit.presence(spots).set_axis(names, axis=1)
    truth = pd.DataFrame(w, columns=tissue).reindex(columns=names, fill_value=0.0)
    shares = counts / counts.sum(1, keepdims=True)
    squares = np.array([nnls(table.loc[names].T.to_numpy(), share)[0] for share in shares])
    squares /= squares.sum(1, keepdims=True)
    for name, estimate in {"deconvolution": proportions.to_numpy(), "non-negative least squares": squares}.items():
        error = np.abs(estimate - truth.to_numpy()).sum(1).mean() / 2
        print(f"{name}: {error:.3f} of the molecules of a spot are given to the wrong type")
    right = ((presence > 0.5).to_numpy() == (truth > 0).to_numpy()).mean()
    print(f"presence is right for {right:.3f} of spots and types; {time.process_time() - started:.0f} s")

    references = {
        "tissue without its last type": (tissue[:-1], 2.0), "types of the tissue": (tissue, 2.0),
        "and two others": (tissue + others[:2], 2.0), "all types": (names, 2.0),
        "types of the tissue, one type expected": (tissue, 1.0), "three types expected": (tissue, 3.0),
    }  # fmt: skip
    for name, (types, expected) in references.items():
        fit = fitted(types, expected)
        evidence = ps.log_evidence(fit, held_out, progress=False)
        gap = ps.certify(fit, held_out, simulated=32)
        print(f"{name} ({len(types)}): {evidence.mean():.2f} nats a spot; {gap.words}", flush=True)


if __name__ == "__main__":
    main()
