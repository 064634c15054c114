"""Evidence compared with scvi-tools, cell by cell: marginal likelihoods of the same weights by both.

    pip install -e ".[bench]"
    python benchmarks/parity.py --out results                             700 blood cells that come with scanpy
    python benchmarks/parity.py pbmc.h5ad --batch batch --out results

scvi-tools trains a model, ``from_scvi`` converts it, and both score the same held-out cells. scvi-tools draws from
its guide (``get_marginal_ll``) in several runs; their scatter is its Monte Carlo error. pyroscvi does the same, which
shows that the densities are equal. It also uses its ladder, which does not depend on the quality of the guide. Both
must agree if the weights of the guide have a light tail; otherwise the average of few draws is too low. For a latent of
the kind ``ln``, scvi-tools evaluates Gaussians of z at the softmax of z, which is not a density. The table also has the
result of our weights with that formula.
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
from common import publish, read
from pyro import poutine
from torch.distributions import Normal

import pyroscvi as ps
from pyroscvi.data.datasets import pbmc68k_reduced
from pyroscvi.evidence import GuideDraws, Reader, evidences
from pyroscvi.evidence.estimator import Importance

PAGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "SCVI, NB": (scvi.model.SCVI, {"gene_likelihood": "nb"}),
    "SCVI, NB, latent size": (scvi.model.SCVI, {"gene_likelihood": "nb", "use_observed_lib_size": False}),
    "SCVI, ZINB": (scvi.model.SCVI, {"gene_likelihood": "zinb"}),
    "LinearSCVI, NB": (scvi.model.LinearSCVI, {"gene_likelihood": "nb"}),
    "SCVI, NB, ln": (scvi.model.SCVI, {"gene_likelihood": "nb", "latent_distribution": "ln"}),
}


LIGHT = 0.5  # k-hat of the guide's weights: below it, their scatter gives the error of their average


def theirs(peer: Any, held: AnnData, runs: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """log p(x_n) from ``runs`` times ``draws`` draws [n], and its standard error from the scatter of the runs [n]."""
    options = {"n_mc_samples": draws, "n_mc_samples_per_pass": 50, "return_mean": False}
    of_runs = [torch.as_tensor(peer.get_marginal_ll(held, **options)) for _ in range(runs)]
    estimates = torch.stack(of_runs).double().numpy()
    value = np.logaddexp.reduce(estimates) - np.log(runs)
    return value, np.exp(estimates - value).std(0, ddof=1) / runs**0.5


@torch.no_grad()
def at_the_softmax(fit: ps.Fit, cells: ps.Cells, runs: int, draws: int) -> np.ndarray:
    """The result of evaluating the Gaussians of z at the softmax of z [n]."""
    q, pieces = fit.guide.posteriors(cells)["z"].base_dist, []
    for _ in range(runs * draws // 50):
        z = q.sample(torch.Size([50]))
        fn = poutine.trace(poutine.condition(fit.model, {"z": z})).get_trace(cells).nodes["x"]["fn"]
        tilt = Normal(0.0, 1.0).log_prob(z.softmax(-1)) - q.log_prob(z.softmax(-1))
        pieces.append((fn.log_prob(cells.x) + tilt.sum(-1)).double().logsumexp(0))
    return (torch.stack(pieces).logsumexp(0) - np.log(runs * draws)).numpy()


def row(name: str, train: AnnData, held: AnnData, settings: argparse.Namespace) -> dict[str, Any]:
    """One row of the table: both evidences of one model, and their differences."""
    kind, options = PAGES[name]
    torch.manual_seed(0)
    kind.setup_anndata(train, layer="counts", batch_key=settings.batch)
    peer = kind(train, n_latent=settings.latent, n_hidden=128, **options)
    peer.train(settings.epochs, accelerator="cpu", enable_progress_bar=False, logger=False)
    peer.module.eval()
    fit = ps.from_scvi(peer)
    cells = fit.read(held)
    value, error = theirs(peer, held, settings.runs, settings.draws)
    same = evidences(Reader(fit, cells), settings.runs * settings.draws, estimator=Importance(GuideDraws())).table
    table = evidences(Reader(fit, cells), settings.particles).table
    ours = table["log_evidence"].to_numpy()
    apart, error = ours - value, np.hypot(error, table["monte_carlo_se"].to_numpy())
    light = (same["k_hat"] < LIGHT).to_numpy()
    entries = {
        "scvi-tools": value.mean(),
        "the same draws": (same["log_evidence"] - value).mean(),
        "the ladder": apart.mean(),
        "certificate gap": ps.certify(fit, cells, settings.particles).gap,
        f"cells with k-hat below {LIGHT}": int(light.sum()),
        "difference in these": apart[light].mean() if light.any() else np.nan,
        "Monte Carlo error": (error[light] ** 2).mean() ** 0.5 / light.sum() ** 0.5 if light.any() else np.nan,
        "farthest, in errors": np.abs(apart / error)[light].max() if light.any() else np.nan,
    }
    if options.get("latent_distribution") == "ln":
        entries["by its formula"] = (at_the_softmax(fit, cells, settings.runs, settings.draws) - value).mean()
    return entries


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("path", type=Path, nargs="?", help="an h5ad; by default 700 blood cells")
    arguments.add_argument("--batch")
    arguments.add_argument("--pages", nargs="+", default=list(PAGES), choices=list(PAGES))
    arguments.add_argument("--genes", type=int, help="number of most variable genes; by default all")
    arguments.add_argument("--latent", type=int, default=5)
    arguments.add_argument("--epochs", type=int, default=400)
    arguments.add_argument("--held-out", type=int, default=64)
    arguments.add_argument("--runs", type=int, default=10)
    arguments.add_argument("--draws", type=int, default=2000, help="draws of every run of scvi-tools")
    arguments.add_argument("--particles", type=int, default=4000)
    arguments.add_argument("--out", type=Path)
    return arguments


def halves(settings: argparse.Namespace) -> tuple[AnnData, AnnData]:
    """Training cells and held-out cells, at the chosen genes."""
    adata = pbmc68k_reduced() if settings.path is None else read(settings.path, settings.batch)
    adata.layers["counts"] = adata.X
    if settings.genes is not None:
        spread = np.log1p(adata.X.toarray()).var(0)
        adata = adata[:, np.sort(np.argsort(-spread)[: settings.genes])].copy()
        adata = adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()
    order = np.random.default_rng(0).permutation(adata.n_obs)
    held, train = (adata[rows].copy() for rows in np.split(order, [settings.held_out]))
    return train, held


def main() -> None:
    settings = parser().parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    train, held = halves(settings)
    rows = {}
    for name in settings.pages:
        rows[name] = row(name, train, held, settings)
        print(name, rows[name], flush=True)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("")
    publish(table, settings.out, "parity", {name: str(value) for name, value in vars(settings).items()})


if __name__ == "__main__":
    main()
