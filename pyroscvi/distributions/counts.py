"""Where the counts are: nine in ten are zero, and the costly formulas are for the others."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["NonZero"]


@dataclass(frozen=True)
class NonZero:
    """The k counts of a block [..., g] that are not zero."""

    at: Tensor  # flat positions in the block  [k]
    x: Tensor  # values                        [k]
    genes: int

    @classmethod
    def of(cls, x: Tensor) -> "NonZero":
        flat = x.reshape(-1)
        at = _positions(flat)
        return cls(at, flat.index_select(0, at), x.shape[-1])

    def take(self, t: Tensor) -> Tensor:
        """The values of t [..., g] at the counts [k]."""
        return t.reshape(-1).index_select(0, self.at)

    def take_cell(self, t: Tensor) -> Tensor:
        """The value of t [..., 1] for the cell of each count [k]."""
        return t.reshape(-1).index_select(0, self.at // self.genes)

    def put(self, t: Tensor, values: Tensor) -> None:
        """Write values [k] into t [..., g], which is contiguous."""
        t.view(-1).scatter_(0, self.at, values)


def _positions(x: Tensor) -> Tensor:
    nonzero = x.bool()
    if x.device.type == "cpu":  # numpy reads a byte a branch: several times as fast as torch
        return torch.from_numpy(np.flatnonzero(nonzero.numpy()))
    return nonzero.nonzero().squeeze(-1)
