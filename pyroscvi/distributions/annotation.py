"""Annotation: the distribution of the label of a cell, given its type."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints


class Annotation(TorchDistribution):
    """A label that is a row of weights s_j, one for each type: p(s | p) = sum_j s_j p_j.

    A one-hot row is a certain label and has its Categorical probability. A row of ones is a missing label and has
    probability one, so that no mask is needed. Any other row is an uncertain label: virtual evidence [Pearl, 1988]. Its
    scale has no meaning; ``Cells.label_weights`` gives every row a largest weight of 1.

    probs  probability of each label  [..., y]
    """

    support = constraints.independent(constraints.nonnegative, 1)
    arg_constraints: dict = {}

    def __init__(self, probs: Tensor):
        self.probs = probs
        super().__init__(probs.shape[:-1], probs.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Annotation":
        return Annotation(self.probs.expand(torch.Size(batch_shape) + self.event_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return torch.distributions.OneHotCategorical(self.probs).sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.probs).sum(-1).log()


def trusted(types: int, trust: float) -> Tensor:
    """Probabilities of labels [types, types]: in row y, ``trust`` for label y, and the rest shared equally by others.

    No probability is 0, so that logarithms stay finite under ``trust=1``.
    """
    wrong = max((1 - trust) / max(types - 1, 1), 1e-12)
    return torch.full((types, types), wrong).fill_diagonal_(1 - wrong * (types - 1))
