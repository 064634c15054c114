"""Topics beside the Poisson factorisation of fastTopics, on the cells that it was fitted to.

    python benchmarks/topics.py pbmc_facs_zheng2017.h5ad

fastTopics maximises the log-likelihood of the cells over profiles and proportions together. Here proportions have a
prior and a posterior, so the comparable number is the log-likelihood at one value of them: the posterior mean, or the
proportions that are most likely under our profiles (by 100 steps of EM).
"""

import argparse
from pathlib import Path

import anndata as ad
import torch
from torch import Tensor

import pyroscvi as ps
from pyroscvi.guides import MeanField
from pyroscvi.models import Topics


def most_likely(start: Tensor, B: Tensor, x: Tensor) -> Tensor:
    """The proportions [n, topics] that maximise the likelihood of counts x [n, g] under profiles B [topics, g]."""
    p = start.clamp(min=1e-6)
    for _ in range(100):
        p = p * ((x / (p @ B).clamp(min=1e-30)) @ B.T)
        p = p / p.sum(1, keepdim=True)
    return p


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an h5ad with counts in X, and obs['split']")
    parser.add_argument("--topics", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    adata = ad.read_h5ad(options.data)
    cells = ps.Fields().read(adata[adata.obs["split"] == "train"].copy())
    fit = ps.fit(Topics(latent=options.topics), MeanField(), cells, progress=False)
    x, l, B = cells.x.double(), cells.library, fit.model.decoder.B.detach().double()
    mean = torch.as_tensor(fit.proportions(cells).to_numpy()).double()
    shares = {
        "one profile": (x.sum(0) / x.sum()).expand_as(x),
        "topics, posterior mean of the proportions": mean @ B,
        "topics, most likely proportions": most_likely(mean, B, x) @ B,
    }
    for name, share in shares.items():
        print(f"{name}: {torch.distributions.Poisson(l * share + 1e-30).log_prob(x).sum(1).mean():.1f}", flush=True)
    print(f"training bound: {fit.history['elbo_train'].iloc[-1]:.1f}")


if __name__ == "__main__":
    main()
