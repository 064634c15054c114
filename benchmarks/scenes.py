"""Objects in images: pages whose evidence is exact, on the counts of 80 kinds of objects in 5,000 images of COCO.

    python benchmarks/scenes.py coco_val2017_object_counts.h5ad

Three quarters of the images are fitted and the others scored. Counts of objects have no common size: ``UnitSize``.
"""

import argparse
import time
from pathlib import Path

import anndata as ad
import torch

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.guides import MeanField
from pyroscvi.models import LatentTree, Mixture
from pyroscvi.parts import NB, Exponential, Poisson, UnitSize

LIKELIHOODS = {"Poisson": Poisson(link=Exponential()), "NB": NB(link=Exponential())}
PAGES = {
    "independent": lambda likelihood: Mixture(kinds=1, size=UnitSize(), likelihood=likelihood),
    "mixture of 5": lambda likelihood: Mixture(kinds=5, size=UnitSize(), likelihood=likelihood),
    "mixture of 20": lambda likelihood: Mixture(kinds=20, size=UnitSize(), likelihood=likelihood),
    "latent tree, 2 levels": lambda likelihood: LatentTree(levels=2, size=UnitSize(), likelihood=likelihood),
    "latent tree, 3 levels": lambda likelihood: LatentTree(levels=3, size=UnitSize(), likelihood=likelihood),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an h5ad with counts of objects in X")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    adata = ad.read_h5ad(options.data)
    # Not Fields: 48 images have no object, and empty cells are refused there.
    images = Cells(torch.as_tensor(adata.X.toarray()), genes=tuple(adata.var_names))
    train, test = images.split(0.25, seed=0)
    print("| | likelihood | fitted images | other images | processor time |\n|---|---|---|---|---|")
    for name, page in PAGES.items():
        for word, likelihood in LIKELIHOODS.items():
            began = time.process_time()
            fit = ps.fit(page(likelihood), MeanField(), train, seed=options.seed, progress=False)
            seconds = time.process_time() - began
            own, others = (ps.log_evidence(fit, some, progress=False) for some in (train, test))
            error = others.std() / len(others) ** 0.5
            print(
                f"| {name} | {word} | {own.mean():.2f} | {others.mean():.2f} ± {error:.2f} | {seconds:.0f} s |",
                flush=True,
            )


if __name__ == "__main__":
    main()
