"""Early stopping by the evidence of held-out cells, which depends on the model alone, and not on how good the guide is.

    fit(model, guide, cells, early_stopping=Patience(watch=HeldOutEvidence(), every=5))

A guide may overfit the training cells earlier than the model does [Cremer et al., 2018; Shu et al., 2018]. From then on
the held-out ELBO falls while the held-out evidence still rises. A fit that stops by the ELBO then has an unfinished
model, and two fits differ by when their guides began to overfit.

References
    Cremer, C., Li, X. & Duvenaud, D. (2018) Inference suboptimality in variational autoencoders. ICML. arXiv:1801.03558
    Shu, R. et al. (2018) Amortized inference regularization. NeurIPS. arXiv:1805.08913
"""

from typing import Any

import torch

from pyroscvi.evidence.at_components import AtComponents
from pyroscvi.evidence.estimator import Estimator, Importance
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.table import evidences
from pyroscvi.part import Part, hops_of

# The same in every look: a kernel that is compiled in the meantime would change the last digits of a resumed run.
SETTINGS: dict[str, Any] = {"dtype": torch.float32, "compile": False}


class HeldOutEvidence(Part):
    """Mean log p(x) of held-out cells in nats, every cell with its own proposal: a ``Patience(watch=...)``.

    cells      how many are evaluated, spread evenly over the held-out ones; the same cells and draws every time
    particles  draws of each, from a proposal that is matched to the scores of its posterior
    """

    cells: int = 64
    particles: int = 100
    estimator: Estimator = Importance(AtComponents())

    def forward(self, model, guide, cells):
        rows = torch.linspace(0, len(cells) - 1, min(self.cells, len(cells))).round().long()
        reader = Reader((model, guide), cells.subset(rows, hops=hops_of(model, guide)), **SETTINGS)
        table = evidences(reader, self.particles, seed=0, estimator=self.estimator, progress=False).table
        return float(table["log_evidence"].mean())
