"""Early stopping by evidence: by what a model says of held-out cells, and not by how well a guide reads them.

    fit(model, guide, cells, early_stopping=Patience(watch=HeldOutEvidence(), every=5))

A guide may learn the cells of training by heart sooner than a model does [on such guides: Cremer et al., 2018; Shu et
al., 2018]. The held-out ELBO falls from there on, while the held-out evidence still rises: a fit that is stopped by
the one has a model that is not done, and two fits differ by when their guides were.

References
    Cremer, C., Li, X. & Duvenaud, D. (2018) Inference suboptimality in variational autoencoders. ICML. arXiv:1801.03558
    Shu, R. et al. (2018) Amortized inference regularization. NeurIPS. arXiv:1805.08913
"""

from typing import Any

import torch

from pyroscvi.evidence.adaptive import Adaptive
from pyroscvi.evidence.estimator import Estimator, Importance
from pyroscvi.evidence.table import log_evidence
from pyroscvi.part import Part

__all__ = ["HeldOutEvidence"]


class HeldOutEvidence(Part):
    """Mean log p(x) of held-out cells in nats, every cell with a proposal of its own: a ``Patience(watch=...)``.

    cells      that are looked at, evenly among those that are held out; always the same, with the same random draws
    particles  draws of each, after the proposal has adapted itself
    """

    cells: int = 64
    particles: int = 200
    estimator: Estimator = Importance(Adaptive(rounds=3, draws=128))

    def forward(self, model, guide, cells):
        few = torch.linspace(0, len(cells) - 1, min(self.cells, len(cells))).round().long()
        some = cells.subset(few, hops=guide.encoder.hops)
        how: dict[str, Any] = {"estimator": self.estimator, "dtype": torch.float32, "progress": False}
        return float(log_evidence((model, guide), some, self.particles, **how).mean())
