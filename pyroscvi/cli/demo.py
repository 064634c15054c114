"""``pyroscvi demo``: all of it, on real cells. Declare variants of one model, fit them, compare them, look at them."""

from pathlib import Path

import torch
from anndata import AnnData

from pyroscvi.cli.output import draw, say, terminal
from pyroscvi.cli.sweep import WRITTEN, check_sweep_folder, fit_runs, write_comparison
from pyroscvi.comparison.compare import compare
from pyroscvi.data.datasets import pbmc68k_reduced
from pyroscvi.data.fields import Fields
from pyroscvi.data.process import process_kept
from pyroscvi.evidence.ladder import Ladder
from pyroscvi.fitting.files import write_checksums, write_whole
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, ZINB, LatentSize, Linear, Mixture, Poisson
from pyroscvi.report import plots
from pyroscvi.report.embedding import latents as draw_latents

# Sizes are latent throughout: every evidence is a p(x), and likelihoods are compared fairly.
VARIANTS = {
    "Poisson": (SCVI(likelihood=Poisson(), size=LatentSize()), MeanField()),
    "NB": (SCVI(likelihood=NB(), size=LatentSize()), MeanField()),
    "ZINB": (SCVI(likelihood=ZINB(), size=LatentSize()), MeanField()),
    "NB + linear": (SCVI(likelihood=NB(), size=LatentSize(), decoder=Linear()), MeanField()),
    "NB + mixture": (SCVI(likelihood=NB(), size=LatentSize(), prior=Mixture(components=8)), MeanField()),
    "NB + covariance": (SCVI(likelihood=NB(), size=LatentSize()), FullCovariance()),
}
LABEL = "bulk_labels"
# The mean over 70 cells is then known to 0.01 nats, and the best variant is ahead of the next by more than a nat.
EVIDENCE = Ladder(tolerance=0.1)
SIMULATED = 16  # cells for the certificate of each seed
FILES = (*WRITTEN, "history.png", "latents.h5ad", "latents.png")


@process_kept()
def demo(out: Path, *, epochs: int, particles: int, seed: int, seeds: int) -> None:
    """Fit the variants to nine cells in ten, compare them on the others, and leave everything in a folder.

    It is the folder of a sweep: fits that it has already are used again.
    """
    check_sweep_folder(out, FILES)
    torch.set_num_threads(1)  # more are not faster on so few cells, and wait for each other on a busy machine
    adata = pbmc68k_reduced()
    cells = Fields(counts="counts", label=LABEL).read(adata)
    seen, unseen = cells.split(0.1, by="label", seed=seed)
    say(f"{len(seen)} blood cells to fit and {len(unseen)} to compare on, {len(cells.genes or ())} genes")
    about = {"data": "demo", "pages": []}
    fits = fit_runs(
        out, VARIANTS, seen, unseen, cells, adata.obs, about, range(seed, seed + seeds), epochs=epochs, compile="trace"
    )

    comparison = compare(fits, unseen, particles, seed, estimator=EVIDENCE, certify=True, simulated=SIMULATED)
    write_comparison(out, fits, comparison)
    terminal().print("", comparison)
    draw(out / "history.png", plots.history({name: fit.history for name, fit in fits.items()}))
    z = {name: fit.latent(cells) for name, fit in fits.items()}
    latents = AnnData(obs=adata.obs, obsm={f"X_{name}": points for name, points in z.items()})
    write_whole(out / "latents.h5ad", latents.write_h5ad)
    draw(out / "latents.png", draw_latents(z, adata.obs[LABEL]))
    write_checksums(out, FILES)
    say(f"\n{out}: history.png and latents.h5ad and .png too, all of the first seed")
