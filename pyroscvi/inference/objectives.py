"""Objectives: what a fit minimises beside, or in place of, minus the evidence lower bound.

    fit(model, guide, cells, objectives=[Classifier(10), Adversary("batch")])

An objective is a callable (model, guide, cells) -> [n], in nats, whose mean over cells is added to the loss. One that
is an ``nn.Module`` is trained too. A ``KLObjective`` is called with the KL of the step, and a ``Reweighting`` changes
the weight of the probability of the counts.

The history of a fit and its evidence are those of the model, without objectives. Each of them improves something
else and lowers the evidence: ``compare`` shows by how much.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.inference.adversary import Adversary
from pyroscvi.inference.elbo import Sites, divergences, factor, joint, product, summed
from pyroscvi.inference.loss import KLObjective
from pyroscvi.inference.reconstruction import Reconstruction
from pyroscvi.program import Guide, Model
from pyroscvi.pyro_internals import enumerated_dim

__all__ = ["Adversary", "Balance", "Classifier", "FreeBits", "Reconstruction", "log_levels"]


@dataclass(frozen=True)
class Balance:
    """Components share the cells evenly: weight times log K - H(r), with r the mean over cells of p(k_n | z_n).

    This keeps a mixture from collapsing onto one component. It also splits clusters where there are fewer clusters than
    components, and the fit no longer maximises the ELBO alone.
    """

    weight: float = 1.0
    site: str = "k"

    def __call__(self, model: Model, guide: Guide, cells: Cells) -> Tensor:
        p, _ = joint(model, guide, cells)
        r = log_levels(p, self.site).exp().mean(0)
        return (self.weight * (log(len(r)) - torch.special.entr(r).sum())).expand(len(cells))


@dataclass(frozen=True)
class Classifier:
    """weight times -log p(y_n = label_n | z_n) of cells that carry a label, for a page that sums y out.

    A label that is a row of weights has the probability sum_y s_y p(y | z_n), without the trust of the page.

    The classifier is Bayes' rule in the model, so it has no parameters of its own. The labels count twice, so the model
    does not reach the evidence that it could [Kingma et al., 2014, equation 9].
    """

    weight: float = 10.0
    site: str = "y"
    field: str = "label"

    def __call__(self, model: Model, guide: Guide, cells: Cells) -> Tensor:
        if self.field == "label" and cells.belief is not None:
            p, _ = joint(model, guide, cells)
            log_p = log_levels(p, self.site)
            return -self.weight * (log_p + cells.label_weights(log_p.shape[-1]).log()).logsumexp(-1)
        if self.field not in cells.categories:
            raise KeyError(f"Classifier: cells have no field {self.field!r}; they have {sorted(cells.categories)}")
        code = cells.categories[self.field]
        p, _ = joint(model, guide, cells)
        log_p = log_levels(p, self.site).gather(-1, code.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return torch.where(code >= 0, -self.weight * log_p, 0.0)


@dataclass(frozen=True)
class FreeBits(KLObjective):
    """The KL of a cell costs nothing below ``bits`` nats, so that switching latents off gains nothing.

    It adds beta max(0, bits - KL_n), with the KL weight beta of the step and the KL of all latents of a cell
    [Kingma et al., 2016, arXiv:1606.04934]. The loss of such a cell is then beta bits, whatever its KL is.
    """

    bits: float = 1.0

    def __call__(self, p: Sites, q: Sites, beta: float | Tensor) -> Tensor:
        known = {name: kl for name, kl in divergences(p, q).items() if kl.local}
        kl: Any = sum(f.log_p for f in known.values())
        kl = kl + sum(factor(q[name]).log_p for name in q if name not in known)
        rest = [f for name in p if name not in known and not p[name]["is_observed"] and (f := factor(p[name])).local]
        kl = kl - summed([f._replace(scale=1.0) for f in rest], torch.zeros_like(kl))
        return (beta * self.bits - kl).clamp(min=0)


def log_levels(p: Mapping[str, Any], site: str) -> Tensor:
    """log p(k_n | x_n, z_n) of every level of an enumerated site [n, k], at the continuous latents of this run.

    Labels do not enter. Counts matter only where they depend on k also given z.
    """
    axes = {name: axis for name, node in p.items() if (axis := enumerated_dim(node)) is not None}
    if site not in axes:
        raise KeyError(f"no enumerated site {site!r}: there are {', '.join(axes) or 'none'}")
    latent = [factor(node) for name, node in p.items() if name == "x" or not node["is_observed"]]
    log_p = product([f for f in latent if f.local]).movedim(axes[site], -1)
    return log_p.flatten(0, -3).logsumexp(0).log_softmax(-1) if log_p.dim() > 2 else log_p.log_softmax(-1)
