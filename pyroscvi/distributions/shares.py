"""Shares: the size of a cell and the logits of the shares that its genes have of it."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Shares"]


class Shares(NamedTuple):
    """log mu_g = log l + log softmax(logits)_g, as its two terms.

    A distribution accepts ``Shares`` in place of ``log_mu``. It then computes the softmax and its gradient in the same
    pass over the counts as the likelihood.

    logits    linear predictors         [..., g]
    log_size  log size l of each cell   [..., 1]
    """

    logits: Tensor
    log_size: Tensor

    @property
    def log_mu(self) -> Tensor:
        return self.log_size + torch.log_softmax(self.logits, -1)
