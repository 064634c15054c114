"""The weight of the counts in the loss: of all genes, or of each gene."""

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.handlers import Tempered
from pyroscvi.inference.loss import Reweighting

__all__ = ["Reconstruction"]


@dataclass(frozen=True)
class Reconstruction(Reweighting):
    """sum_g w_g log p(x_g | z), ``weight`` times, in place of log p(x | z).

    weight   2 has the same optimum as a KL weight of 1/2
    genes    w, one number for each gene; None is 1 for all. ``by_variance(cells)`` computes some

    The loss is then no bound of an evidence.
    """

    weight: float = 1.0
    genes: tuple[float, ...] | None = None

    @classmethod
    def by_variance(cls, cells: Cells, weight: float = 1.0) -> "Reconstruction":
        """Weights that are smaller for genes that vary more: w_g = c / (v_g + v), with a mean of 1.

        v_g is the variance of log(1 + x) of the gene, and v its mean over genes, so that no weight exceeds c / v.
        """
        n = len(cells)
        first = second = torch.zeros(cells.counts.shape[1], dtype=torch.float64, device=cells.device)
        for minibatch in cells.minibatches(1024, hops=0):
            y = minibatch.x.double().log1p()
            first, second = first + y.sum(0), second + y.square().sum(0)
        v = (second / n - (first / n) ** 2).clamp(min=0)
        w = 1 / (v + v.mean().clamp(min=1e-12))
        return cls(weight, tuple((w / w.mean()).tolist()))

    def handler(self) -> Messenger:
        return _OfCounts(self)


class _OfCounts(Messenger):
    def __init__(self, objective: Reconstruction):
        super().__init__()
        self.objective = objective

    def _pyro_sample(self, message: Any) -> None:
        if message["name"] != "x":
            return
        fn, genes = message["fn"], self.objective.genes
        if genes is not None and len(genes) != fn.event_shape[0]:
            raise ValueError(f"Reconstruction: {len(genes)} weights for {fn.event_shape[0]} genes")
        message["fn"] = Tempered(fn if genes is None else _Weighted(fn, genes), self.objective.weight)


class _Weighted(Tempered):
    """``base_dist`` with a weight for the log-density of each gene."""

    def __init__(self, base: Any, weights: tuple[float, ...]):
        super().__init__(base, 1.0)
        self.weights = weights

    def log_prob(self, value: Tensor) -> Tensor:
        fn: Any = self.base_dist
        if isinstance(fn, dist.Independent):
            of_genes = fn.base_dist.log_prob(value)
        elif hasattr(fn, "log_density") or hasattr(fn, "log_pmf"):
            of_genes = (fn.log_density if hasattr(fn, "log_density") else fn.log_pmf)(value)
        else:
            raise TypeError(f"Reconstruction: {type(fn).__name__} does not have the probability of each gene")
        return (of_genes * torch.tensor(self.weights).to(of_genes)).sum(-1)
