"""Simulation-based calibration of every page of the zoo, and of controls with a known answer.

    python benchmarks/calibration.py --out results
    python benchmarks/calibration.py --guides low_rank spatial_gnn --simulations 2000

The controls are posteriors of a PPCA that need no training: the exact posterior, the best mean field of a correlated
posterior, and the prior. Then every page is fitted to 400 simulated cells of 30 genes in two batches; some pages are
fitted again with a latent size or with a mixture as prior. For a guide that reads neighbours there are 400 cells of
two pieces of tissue instead, and each of the 400 simulated cells replaces one of them. A row has the number of
quantities that fail for the guide and for the importance-corrected draws, the smallest p-value (corrected for the
number of quantities), the p-value of the likelihood rank, and the coverage of central 90% intervals, averaged over
quantities.
One correct row in a hundred has a corrected p below 0.01.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pyro.distributions as dist
import torch
from common import publish
from torch import nn

import pyroscvi as ps
from pyroscvi.calibration import Calibration
from pyroscvi.data.datasets import simulated
from pyroscvi.models import PPCA
from pyroscvi.parts import LatentSize, Mixture
from pyroscvi.program import free_sites

PAGES: dict[str, Any] = {
    name: partial(ps.create, name, latent=2)
    for name in ps.list_models()
    if name not in ("domains", "mixture", "latent_tree")
} | {
    "domains": partial(ps.create, "domains", kinds=4),
    "mixture": partial(ps.create, "mixture", kinds=4),
    "latent_tree": partial(ps.create, "latent_tree"),
    "gmvae": partial(ps.create, "gmvae", latent=2, kinds=4),
    "scvi, latent size": partial(ps.create, "scvi", latent=2, size=LatentSize()),
    "scvi, mixture": partial(ps.create, "scvi", latent=2, prior=Mixture(components=3)),
}


class Given(nn.Module):
    """A guide with a given posterior."""

    def __init__(self, model: PPCA, posterior: Callable[[PPCA, Any], Any], cells: Any):
        super().__init__()
        self.model, self.posterior, self.sites = model, posterior, free_sites(model, cells)

    def posteriors(self, cells: Any) -> dict[str, Any]:
        return {"z": self.posterior(self.model, cells)}


def exact(model: PPCA, cells: Any) -> Any:
    q = model.posterior(cells.x)
    return dist.MultivariateNormal(q.loc, scale_tril=q.scale_tril)


def best_mean_field(model: PPCA, cells: Any) -> Any:
    q = model.posterior(cells.x)
    return dist.Normal(q.loc, q.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt().expand(q.loc.shape)).to_event(1)


def prior(model: PPCA, cells: Any) -> Any:
    return dist.Normal(torch.zeros(len(cells), model.latent, dtype=cells.dtype), 1.0).to_event(1)


def controls() -> Iterator[tuple[str, Any, Any]]:
    """A PPCA whose two dimensions have nearly the same loadings, with right and wrong guides."""
    cells = data()
    model = PPCA(latent=2).sized(cells.dims).requires_grad_(False)
    along = torch.linspace(0.2, 0.5, cells.counts.shape[1])
    aside = 0.03 * (-1.0) ** torch.arange(len(along))
    model.log_sigma.fill_(-0.7)
    model.W.copy_(torch.stack([along + aside, along - aside], -1))
    for name, posterior in {"exact": exact, "best mean field": best_mean_field, "the prior": prior}.items():
        yield f"ppca, {name}", (model, Given(model, posterior, cells)), cells


def fits(pages: list[str], guides: list[str], epochs: int) -> Iterator[tuple[str, Any, Any]]:
    for named in guides:
        guide = ps.create(named)
        cells = data(tissue=guide.encoder.hops > 0)
        for name in pages:
            options = {"epochs": epochs, "lr": 5e-3, "batch_size": 64, "progress": False}
            yield f"{name}, {named.replace('_', ' ')}", ps.fit(PAGES[name](), guide, cells, **options), cells


def data(tissue: bool = False) -> Any:
    where: dict[str, Any] = {"spatial": "spatial", "section": "section"} if tissue else {}
    fields = ps.Fields(counts="counts", batch="batch", label="cell_type", proteins="proteins", **where)
    adata = simulated(cells=400, genes=30, seed=0, sections=2 if tissue else 0)
    adata.obsm["proteins"] = adata.X[:, :3].toarray()
    return fields.read(adata)


def measured(
    pages: list[str], guides: list[str], simulations: int = 500, candidates: int = 4000, epochs: int = 100
) -> Iterator[tuple[str, Calibration, float]]:
    """Name, calibration and seconds of every control, then of every page under every guide."""
    for name, fit, cells in chain(controls(), fits(pages, guides, epochs)):
        start = time.process_time()
        calibration = ps.calibrate(fit, cells, simulations, candidates=candidates)
        yield name, calibration, time.process_time() - start


def row(calibration: Calibration, seconds: float) -> dict[str, Any]:
    """One row of the table."""
    entries: dict[str, Any] = {}
    for name, ranks in calibration.ranks.items():
        table = ranks.table
        entries[f"{name} fails"] = f"{len(ranks.failures)} of {len(table)}"
        entries[f"{name} p"] = f"{table['corrected p'].min():.2g}"
        entries[f"{name} p of the likelihood"] = f"{table['p'].filter(like='log p(x').iloc[0]:.2g}"
        entries[f"{name} coverage"] = f"{table['coverage of 90%'].mean():.3f}"
    return entries | {"sufficient": f"{calibration.sufficient:.3f}", "seconds": f"{seconds:.0f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", nargs="+", default=list(PAGES), choices=list(PAGES))
    parser.add_argument("--guides", nargs="+", default=["mean_field", "full_covariance"])
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--candidates", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    measurements = measured(options.pages, options.guides, options.simulations, options.candidates, options.epochs)
    for name, calibration, seconds in measurements:
        rows[name] = row(calibration, seconds)
        print(f"{name}: {rows[name]}", flush=True)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("page, guide")
    publish(table, options.out, "calibration", {name: str(value) for name, value in vars(options).items()})


if __name__ == "__main__":
    main()
