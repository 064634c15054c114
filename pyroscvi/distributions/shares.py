"""Shares: a cell's size, shared out among the genes."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Shares"]


class Shares(NamedTuple):
    """log mu_g = log l + log softmax(logits)_g, with the softmax still to be taken.

    Where a distribution accepts ``log_mu`` it accepts these two in its place. Kept apart, the softmax and its gradient
    are part of the likelihood's one pass over the counts.

    logits    linear predictors         [..., g]
    log_size  log size l of each cell   [..., 1]
    """

    logits: Tensor
    log_size: Tensor

    @property
    def log_mu(self) -> Tensor:
        return self.log_size + torch.log_softmax(self.logits, -1)
