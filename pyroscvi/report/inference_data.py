"""A fit as ArviZ knows one: draws of every latent, predicted counts, log-likelihoods and what was observed, by name."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyroscvi.analysis.corrected import resampled
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.proposals import GuideDraws
from pyroscvi.evidence.reading import Read, as_cells, pair, reading
from pyroscvi.report.generations import inference_data

__all__ = ["to_arviz"]

NO_LOO = (
    "log p(x_n | z_n) at draws of the cell's own latents. Leaving a cell out would leave its latents without data, and "
    "importance weights from q(z_n | x_n) to the prior have no variance: loo and waic of these numbers mean nothing. "
    "Compare models by held-out evidence, pyroscvi.compare."
)
RAW = "of the guide q(z | x), not corrected for its error"
CORRECTED = "of the posterior p(z | x), by importance resampling from the guide"


def to_arviz(fit: Any, cells: Any, samples: int = 100, seed: int = 0, *, corrected: bool = False) -> Any:
    """InferenceData (ArviZ 0.x) or DataTree (1.x), with one chain of ``samples`` draws.

    Draws are of the guide; ``corrected``, of the posterior itself, by importance resampling.

    posterior             every latent of a cell, z and l among them    [chain, draw, cell, <latent>_dim]
    posterior_predictive  counts x, drawn at these latents              [chain, draw, cell, gene]
    log_likelihood        log p(x_n | latents); not fit for loo or waic  [chain, draw, cell]
    observed_data         counts x                                      [cell, gene]

    Dense counts of all draws are kept in memory: take a subset of the cells where there are many.
    """
    cells = as_cells(fit, cells)
    model, _ = pair(fit)
    latents: list[dict[str, Tensor]] = []
    predicted, likelihood = [], []
    devices = {p.device for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(seed)
        for read, u in _drawn(fit, cells, samples, seed, corrected):
            latents.append(read.joint.values(u))
            likelihood.append(read.joint.log_likelihood(u))
            predicted.append(read.joint.predicted(u).float())

    def chain(pieces: list[Tensor]) -> np.ndarray:
        return torch.cat(pieces, 1).unsqueeze(0).cpu().numpy()

    posterior = {name: chain([piece[name] for piece in latents]) for name in latents[0]}
    return inference_data(
        {
            "posterior": posterior,
            "posterior_predictive": {"x": chain(predicted)},
            "log_likelihood": {"x": chain(likelihood)},
            "observed_data": {"x": cells.x.cpu().numpy()},
        },
        coords={
            "cell": np.arange(len(cells)) if cells.names is None else np.asarray(cells.names, dtype=str),
            "gene": np.arange(cells.x.shape[1]) if cells.genes is None else np.asarray(cells.genes, dtype=str),
        },
        dims={"x": ["cell", "gene"], **{name: ["cell", f"{name}_dim"] for name in posterior}},
        attrs={
            "posterior": {"draws": CORRECTED if corrected else RAW, "model": repr(model)},
            "log_likelihood": {"note": NO_LOO, "estimand": getattr(model, "estimand", "p(x)")},
        },
    )


def _drawn(fit: Any, cells: Cells, samples: int, seed: int, corrected: bool) -> Iterator[tuple[Read, Tensor]]:
    """Minibatches with draws of their unconstrained latents u [samples, n, d]."""
    if corrected:
        for found in resampled(fit, cells, samples, seed):
            yield found.read, found.draws
        return
    for read in reading(fit, cells, seed, GuideDraws()):
        yield read, read.draws.sample(read.streams, samples)
