"""Objectives: what is asked of a fit beside the evidence lower bound.

An objective is a callable (model, guide, cells) -> [n], in nats; ``fit(objectives=[...])`` adds its mean over cells to
the loss. One that is an ``nn.Module`` is trained along with the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.inference.elbo import divergences, factor, joint, product, summed
from pyroscvi.program import Guide, Model
from pyroscvi.pyro_internals import enumerated_dim

__all__ = ["Balance", "Classifier", "FreeBits", "log_levels"]


@dataclass(frozen=True)
class Balance:
    """Components are to share the cells: weight times log K - H(r), with r the mean over cells of p(k_n | z_n).

    A mixture that is about to fall onto one component is given a reason not to, in nats a cell. It is a reason to split
    a cluster as well, where there are fewer than components, and the bound is no longer all that is climbed.
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

    The page's own Bayes' rule is the classifier: there are no parameters beside those of the model. The labels are told
    twice, so the evidence of such a fit is not the best that the model could have [Kingma et al., 2014, equation 9].
    """

    weight: float = 10.0
    site: str = "y"
    field: str = "label"

    def __call__(self, model: Model, guide: Guide, cells: Cells) -> Tensor:
        if self.field not in cells.categories:
            raise KeyError(f"Classifier: cells have no field {self.field!r}; there are {sorted(cells.categories)}")
        code = cells.categories[self.field]
        p, _ = joint(model, guide, cells)
        told = log_levels(p, self.site).gather(-1, code.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return torch.where(code >= 0, -self.weight * told, 0.0)


@dataclass(frozen=True)
class FreeBits:
    """The KL of a cell costs nothing below ``bits`` nats, so that there is no gain in switching latents off.

    It adds max(0, bits - KL_n), with the KL of all local latents [Kingma et al., 2016, arXiv:1606.04934].
    """

    bits: float = 1.0

    def __call__(self, model: Model, guide: Guide, cells: Cells) -> Tensor:
        p, q = joint(model, guide, cells)
        known = {name: kl for name, kl in divergences(p, q).items() if kl.local}
        kl = sum(f.log_p for f in known.values()) + sum(factor(q[name]).log_p for name in q if name not in known)
        rest = [f for name in p if name not in known and not p[name]["is_observed"] and (f := factor(p[name])).local]
        kl = kl - summed([f._replace(scale=1.0) for f in rest], torch.zeros(len(cells)).to(kl))
        return (self.bits - kl).clamp(min=0)


def log_levels(p: Mapping[str, Any], site: str) -> Tensor:
    """log p(k_n | z_n) of every level of an enumerated site [n, k], given the continuous latents at which p was run."""
    axes = {name: axis for name, node in p.items() if (axis := enumerated_dim(node)) is not None}
    if site not in axes:
        raise KeyError(f"no enumerated site {site!r}: there are {', '.join(axes) or 'none'}")
    latent = [factor(node) for node in p.values() if not node["is_observed"]]
    log_p = product([f for f in latent if f.local]).movedim(axes[site], -1)
    return log_p.flatten(0, -3).logsumexp(0).log_softmax(-1) if log_p.dim() > 2 else log_p.log_softmax(-1)
