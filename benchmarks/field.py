"""Is the field of a tissue recovered? Tissue is drawn from a linear page under the prior Field, and fitted again.

    python benchmarks/field.py --cells 800 --seeds 1 --out results

Two dimensions of z, with known strengths and lengthscales, in one section. The same counts are fitted again with their
places shuffled: the strengths must then go to 0. "given others" is log p(x | l, others) of a tenth of the cells, with
the field and without (strength 0), from the same particles.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from common import publish

import pyroscvi as ps
from pyroscvi.evidence import Importance
from pyroscvi.guides import FullCovariance
from pyroscvi.models import LDVAE
from pyroscvi.parts import NB, Field

STRENGTHS, LENGTHSCALES = np.array([0.9, 0.5]), np.array([6.0, 3.0])


def drawn(n: int, genes: int, rng: np.random.Generator) -> AnnData:
    """Counts of n cells on a square, at about one cell a unit of area, under the prior with a Matern-3/2 kernel."""
    place = rng.uniform(0, np.sqrt(n), (n, 2))
    distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
    nearest = np.median(np.partition(distance + 1e9 * np.eye(n), 0, axis=1)[:, 0])
    z = np.empty((n, 2))
    for j, (a, r) in enumerate(zip(STRENGTHS, LENGTHSCALES, strict=True)):
        scaled = np.sqrt(3) * distance / (r * nearest)
        covariance = a * (1 + scaled) * np.exp(-scaled) + (1 - a) * np.eye(n)
        z[:, j] = np.linalg.cholesky(covariance) @ rng.normal(size=n)
    eta = rng.normal(0, 1, genes) + z @ rng.normal(0, 0.7, (2, genes))
    share = np.exp(eta - eta.max(1, keepdims=True))
    mean = 1000 * share / share.sum(1, keepdims=True)
    counts = rng.poisson(rng.gamma(10, mean / 10)).astype(np.float32)
    names = pd.DataFrame(index=[f"cell{i}" for i in range(n)])
    return AnnData(counts, obs=names, obsm={"spatial": place, "z": z})


def fitted(adata: AnnData, epochs: int, seed: int) -> dict[str, float]:
    """The strengths and lengthscales of a fit, the strongest first, and what space explains of held-out cells."""
    cells = ps.Fields(spatial="spatial", predecessors=20).read(adata)
    train, held_out = cells.split(0.1, seed=seed)
    fits = {
        strength: ps.fit(
            LDVAE(latent=2, prior=Field(strength=strength), likelihood=NB()), FullCovariance(), train, epochs=epochs,
            seed=seed, progress=False,
        )
        for strength in (0.5, 0.0)
    }  # fmt: skip
    scores = {s: ps.log_evidence(f, held_out, 200, estimator=Importance(), progress=False) for s, f in fits.items()}
    prior = fits[0.5].model.prior
    order = prior.strengths.argsort(descending=True)
    row = {f"strength {k + 1}": float(a) for k, a in enumerate(prior.strengths[order])}
    row |= {f"lengthscale {k + 1}": float(r) for k, r in enumerate(prior.lengthscales[order])}
    gain = scores[0.5] - scores[0.0]
    return row | {"given others: gain, nats a cell": gain.mean(), "standard error": gain.std() / np.sqrt(len(gain))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--genes", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [{"tissue": "the truth", **dict(zip(["strength 1", "strength 2"], STRENGTHS, strict=True))}]
    rows[0] |= dict(zip(["lengthscale 1", "lengthscale 2"], LENGTHSCALES, strict=True))
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        adata = drawn(options.cells, options.genes, rng)
        shuffled = adata.copy()
        shuffled.obsm["spatial"] = rng.permutation(adata.obsm["spatial"])
        for name, tissue in {"as drawn": adata, "places shuffled": shuffled}.items():
            rows.append({"tissue": f"{name}, seed {seed}", **fitted(tissue, options.epochs, seed)})
            print(rows[-1], flush=True)
    about = {name: str(value) for name, value in vars(options).items()}
    publish(pd.DataFrame(rows).set_index("tissue"), options.out, "field", about)


if __name__ == "__main__":
    main()
