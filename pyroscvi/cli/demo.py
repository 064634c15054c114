"""``pyroscvi demo``: all of it, on real cells. Declare variants of one model, fit them, compare them, look at them."""

import re
from pathlib import Path

import torch
from anndata import AnnData

from pyroscvi import __version__, compare, load
from pyroscvi.cli.output import draw, say, terminal
from pyroscvi.cli.runs import DONE, carry_out, open_folder, write_run
from pyroscvi.data.datasets import pbmc68k_reduced
from pyroscvi.data.fields import Fields
from pyroscvi.data.process import process_kept
from pyroscvi.fitting.files import write_whole
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, ZINB, LatentSize, Linear, Mixture, Poisson
from pyroscvi.report import plots
from pyroscvi.report.embedding import latents as draw_latents

__all__ = ["VARIANTS", "demo"]

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


@process_kept()
def demo(out: Path, *, epochs: int = 200, particles: int = 1000, seed: int = 0, force: bool = False) -> None:
    """Fit the variants to nine cells in ten, compare them on the others, and leave everything in a folder.

    Fits that a demo with the same settings has left in the folder are used again.
    """
    configuration = {"demo": repr(VARIANTS), "epochs": epochs, "seed": seed, "pyroscvi": __version__}
    open_folder(out, configuration, force, done=None)
    torch.set_num_threads(1)  # more are not faster on so few cells, and wait for each other on a busy machine
    adata = pbmc68k_reduced()
    cells = Fields(counts="counts", label=LABEL).read(adata)
    seen, unseen = cells.split(0.1, by="label", seed=seed)
    say(f"{len(seen)} blood cells to fit and {len(unseen)} to compare on, {len(cells.genes or ())} genes")

    fits = {}
    for place, (name, (model, guide)) in enumerate(VARIANTS.items(), 1):
        say(f"{place} of {len(VARIANTS)}  {name}: {model!r}, {guide!r}")
        folder = out / "runs" / slug(name)
        if (folder / DONE).is_file():
            fits[name] = load(folder)
            continue
        open_folder(folder, {"model": repr(model), "guide": repr(guide), **configuration})
        fits[name] = carry_out(folder, model, guide, seen, epochs=epochs, lr=2e-3, seed=seed)
        write_run(folder, fits[name], cells, adata.obs, unseen)

    comparison = compare(fits, unseen, particles, seed, compile=True)
    terminal().print("", comparison)
    write_whole(out / "comparison.csv", comparison.table.to_csv)
    draw(out / "comparison.png", comparison.plot())
    draw(out / "history.png", plots.history({name: fit.history for name, fit in fits.items()}))

    z = {name: fit.latent(cells) for name, fit in fits.items()}
    latents = AnnData(obs=adata.obs, obsm={f"X_{slug(name)}": points for name, points in z.items()})
    write_whole(out / "latents.h5ad", latents.write_h5ad)
    draw(out / "latents.png", draw_latents(z, adata.obs[LABEL]))
    say(f"\n{out}: comparison.csv and .png, latents.h5ad and .png, history.png, and a folder for every fit under runs/")


def slug(name: str) -> str:
    """``NB + mixture`` to ``nb_mixture``."""
    return "_".join(re.findall(r"\w+", name.lower()))
