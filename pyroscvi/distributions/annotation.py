"""Annotation: what was said of a cell, given what it is."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Annotation"]


class Annotation(TorchDistribution):
    """A label said with weights s_j, one for each type: p(s | p) = sum_j s_j p_j.

    A row that is one-hot is a hard label and has its Categorical probability; a row of ones says nothing and has
    probability one, so that no mask is needed; a softmax is virtual evidence [Pearl, 1988].

    probs  probability of saying each type  [..., y]
    """

    support = constraints.independent(constraints.nonnegative, 1)
    arg_constraints: dict = {}

    def __init__(self, probs: Tensor):
        self.probs = probs
        super().__init__(probs.shape[:-1], probs.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Annotation":
        return Annotation(self.probs.expand(torch.Size(batch_shape) + self.event_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.distributions.OneHotCategorical(self.probs).sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.probs).sum(-1).log()
