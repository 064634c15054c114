"""Evidence beside scvi-tools, cell by cell: its marginal likelihood and ours, of the same weights.

    pip install -e ".[bench]"
    python benchmarks/parity.py --out results                             700 blood cells that come with scanpy
    python benchmarks/parity.py pbmc.h5ad --batch batch --out results

scvi-tools trains a model, ``from_scvi`` carries it over, and both score the same held-out cells. scvi-tools draws from
its guide (``get_marginal_ll``), in runs whose scatter is its Monte Carlo error. pyroscvi does the same, which shows
that densities are the same, and climbs its ladder, which does not depend on how good that guide is: both are to agree
where the weights of the guide have a light tail, and elsewhere the average of few draws is too low. Of a latent of the
kind ``ln`` scvi-tools scores Gaussians of z at the softmax of z, a density of nothing; what our weights give by that
formula stands beside it.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from common import markdown, read, write
from pyro import poutine
from torch.distributions import Normal

import pyroscvi as ps
from pyroscvi.data.datasets import pbmc68k_reduced
from pyroscvi.evidence import GuideDraws, evidence_table
from pyroscvi.evidence.estimator import Importance

PAGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "SCVI, NB": (scvi.model.SCVI, {"gene_likelihood": "nb"}),
    "SCVI, NB, latent size": (scvi.model.SCVI, {"gene_likelihood": "nb", "use_observed_lib_size": False}),
    "SCVI, ZINB": (scvi.model.SCVI, {"gene_likelihood": "zinb"}),
    "LinearSCVI, NB": (scvi.model.LinearSCVI, {"gene_likelihood": "nb"}),
    "SCVI, NB, ln": (scvi.model.SCVI, {"gene_likelihood": "nb", "latent_distribution": "ln"}),
}


LIGHT = 0.5  # k-hat of the guide's weights, below which their average has the error that their scatter says


def theirs(peer: Any, held: AnnData, runs: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """log p(x_n) from ``runs`` times ``draws`` draws [n], and its standard error from the scatter of the runs [n]."""
    options = {"n_mc_samples": draws, "n_mc_samples_per_pass": 50, "return_mean": False}
    found = torch.stack([torch.as_tensor(peer.get_marginal_ll(held, **options)) for _ in range(runs)]).double().numpy()
    value = np.logaddexp.reduce(found) - np.log(runs)
    return value, np.exp(found - value).std(0, ddof=1) / runs**0.5


@torch.no_grad()
def at_the_softmax(fit: ps.Fit, cells: ps.Cells, runs: int, draws: int) -> np.ndarray:
    """What comes of scoring the Gaussians of z at the softmax of z [n]."""
    q, pieces = fit.guide.posteriors(cells)["z"].base_dist, []
    for _ in range(runs * draws // 50):
        z = q.sample(torch.Size([50]))
        fn = poutine.trace(poutine.condition(fit.model, {"z": z})).get_trace(cells).nodes["x"]["fn"]
        tilt = Normal(0.0, 1.0).log_prob(z.softmax(-1)) - q.log_prob(z.softmax(-1))
        pieces.append((fn.log_prob(cells.x) + tilt.sum(-1)).double().logsumexp(0))
    return (torch.stack(pieces).logsumexp(0) - np.log(runs * draws)).numpy()


def row(name: str, train: AnnData, held: AnnData, asked: argparse.Namespace) -> dict[str, Any]:
    kind, options = PAGES[name]
    torch.manual_seed(0)
    kind.setup_anndata(train, layer="counts", batch_key=asked.batch)
    peer = kind(train, n_latent=asked.latent, n_hidden=128, **options)
    peer.train(asked.epochs, accelerator="cpu", enable_progress_bar=False, logger=False)
    peer.module.eval()
    fit = ps.from_scvi(peer)
    cells = fit.read(held)
    value, error = theirs(peer, held, asked.runs, asked.draws)
    same = evidence_table(fit, cells, asked.runs * asked.draws, estimator=Importance(GuideDraws()))
    table = evidence_table(fit, cells, asked.particles, certify=True)
    ours = table["log_evidence"].to_numpy()
    apart, error = ours - value, np.hypot(error, table["monte_carlo_se"].to_numpy())
    light = (same["k_hat"] < LIGHT).to_numpy()
    told = {
        "scvi-tools": value.mean(),
        "the same draws": (same["log_evidence"] - value).mean(),
        "the ladder": apart.mean(),
        "certificate gap": table.attrs["certificate"]["gap"],
        f"cells with k-hat below {LIGHT}": int(light.sum()),
        "difference in these": apart[light].mean() if light.any() else np.nan,
        "Monte Carlo error": (error[light] ** 2).mean() ** 0.5 / light.sum() ** 0.5 if light.any() else np.nan,
        "farthest, in errors": np.abs(apart / error)[light].max() if light.any() else np.nan,
    }
    if options.get("latent_distribution") == "ln":
        told["by its formula"] = (at_the_softmax(fit, cells, asked.runs, asked.draws) - value).mean()
    return told


def parser() -> argparse.ArgumentParser:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("path", type=Path, nargs="?", help="an h5ad; without it, 700 blood cells")
    ask.add_argument("--batch")
    ask.add_argument("--pages", nargs="+", default=list(PAGES), choices=list(PAGES))
    ask.add_argument("--genes", type=int, help="so many of the most variable, in place of all")
    ask.add_argument("--latent", type=int, default=5)
    ask.add_argument("--epochs", type=int, default=400)
    ask.add_argument("--held-out", type=int, default=64)
    ask.add_argument("--runs", type=int, default=10)
    ask.add_argument("--draws", type=int, default=2000, help="of a run of scvi-tools")
    ask.add_argument("--particles", type=int, default=4000)
    ask.add_argument("--out", type=Path)
    return ask


def halves(asked: argparse.Namespace) -> tuple[AnnData, AnnData]:
    """Cells to train on and cells held out, at the genes that were asked for."""
    adata = pbmc68k_reduced() if asked.path is None else read(asked.path, asked.batch)
    adata.layers["counts"] = adata.X
    if asked.genes is not None:
        spread = np.log1p(adata.X.toarray()).var(0)
        adata = adata[:, np.sort(np.argsort(-spread)[: asked.genes])].copy()
        adata = adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()
    order = np.random.default_rng(0).permutation(adata.n_obs)
    held, train = (adata[rows].copy() for rows in np.split(order, [asked.held_out]))
    return train, held


def main() -> None:
    asked = parser().parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    train, held = halves(asked)
    rows = {}
    for name in asked.pages:
        rows[name] = row(name, train, held, asked)
        print(name, rows[name], flush=True)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("")
    print(markdown(table))
    if asked.out is not None:
        about = {name: str(value) for name, value in vars(asked).items()}
        write(asked.out, "parity", table, about)


if __name__ == "__main__":
    main()
