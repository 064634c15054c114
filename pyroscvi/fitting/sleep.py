"""A guide that also learns from cells which the model simulates.

The ELBO of a cell falls by KL(q || p) of the guide q from the posterior p. Where q cannot be p, the q with the largest
ELBO is too narrow. The latents of a simulated cell are a draw of its posterior, and to maximise log q at that draw is
to minimise KL(p || q), whose best q is wide enough to cover p. This is the sleep phase of the wake-sleep algorithm.

    wider = fit.adapted(cells, objectives=[Sleep(weight=10.0)])     # the model does not change

References
    Hinton, G. E. et al. (1995) The wake-sleep algorithm for unsupervised neural networks. Science.
    doi:10.1126/science.7761831
    Bornschein, J. & Bengio, Y. (2015) Reweighted wake-sleep. ICLR. arXiv:1406.2751
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.coordinates import Coordinates
from pyroscvi.evidence.simulated import ReplayedGuide
from pyroscvi.handlers import as_scored
from pyroscvi.program import Guide, Model
from pyroscvi.sites import sampled


@dataclass(frozen=True)
class Sleep:
    """An objective: weight times -log q(z | x) of latents z and counts x that the model draws, one x for each cell.

    Simulated cells have the conditions and sizes of the real ones. Gradients reach the guide alone. Discrete latents,
    and latents that cells share, do not enter.
    """

    weight: float = 1.0

    def __call__(self, model: Model, guide: Guide, cells: Cells) -> Tensor:
        training = model.training
        model.eval()  # a batch norm does not learn from simulated cells
        with torch.no_grad(), as_scored(), poutine.block():
            drawn: Any = poutine.trace(poutine.uncondition(model)).get_trace(cells).nodes
            sites = sampled(poutine.trace(model).get_trace(cells).nodes)
        model.train(training)
        values = {name: drawn[name]["value"] for name in sites}
        observed = {name: values[name] for name, site in sites.items() if site["is_observed"]}
        if cells.measured is not None and "x" in observed:
            observed["x"] = observed["x"] * cells.measured
        rows = torch.arange(len(cells), device=cells.device)
        posteriors = ReplayedGuide(guide, observed).posteriors(replace(cells, index=rows))
        local = {name: site for name, site in guide.sites.items() if site.local}
        u = {name: Coordinates({name: site}, cells.dtype).of(values) for name, site in local.items()}
        return -self.weight * sum((posteriors[name].log_prob(u[name]) for name in local), cells.x.new_zeros(len(cells)))
