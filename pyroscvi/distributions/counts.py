"""Find the counts above zero. Nine in ten counts are zero, and only the others need the expensive formulas."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyroscvi.torch_internals import recording


@dataclass(frozen=True)
class NonZero:
    """The nonzero counts of a block [..., g], as a vector x. [k] has one value for each nonzero count."""

    x: Tensor
    at: Tensor  # flat positions in the block  [k]
    genes: int
    cache: dict[Any, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, x: Tensor) -> "NonZero":
        flat = x.reshape(-1)
        if x.device.type == "cpu":  # numpy skips eight zeros at once, and is several times as fast as torch
            at = torch.from_numpy(np.flatnonzero(flat.bool().numpy()))
        else:
            at = flat.nonzero().squeeze(-1)
        return cls(flat.index_select(0, at), at, x.shape[-1])

    def take(self, t: Tensor) -> Tensor:
        """The values of t [..., g] at the nonzero counts [k]."""
        return t.reshape(-1).index_select(0, self.at)

    def take_cell(self, t: Tensor) -> Tensor:
        """The value of t [..., 1] for the cell of each nonzero count [k]."""
        return t.reshape(-1).index_select(0, self.at // self.genes)

    def take_gene(self, t: Tensor) -> Tensor:
        """The value of t [g] for the gene of each nonzero count [k]."""
        return t.index_select(0, self.gene)

    @cached_property
    def gene(self) -> Tensor:
        return self.at % self.genes

    def put(self, t: Tensor, values: Tensor) -> None:
        """Write values [k] into t [..., g] at the nonzero counts."""
        flat = t.reshape(-1)  # a copy if t is transposed, which happens if the predictors are
        flat.scatter_(0, self.at, values)
        if not t.is_contiguous():
            t.copy_(flat.view(t.shape))

    def cached(self, theta: Tensor | None, value: Callable[[], Tensor]) -> Tensor:
        """``value()``, which depends on the counts and theta [..., g] alone; computed again only for another theta."""
        key = None if theta is None else (theta.data_ptr(), theta.stride())
        if key not in self.cache:
            self.cache.clear()  # blocks come in order: an earlier theta is not needed again
            self.cache[key] = value()
        return self.cache[key]


@dataclass(frozen=True)
class Everywhere:
    """All counts, with 1 in place of 0: for a compiled graph, whose shapes must not depend on x."""

    x: Tensor
    nonzero: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "Everywhere":
        nonzero = x != 0
        return cls(torch.where(nonzero, x, 1.0), nonzero)

    def take(self, t: Tensor) -> Tensor:
        return t

    take_cell = take_gene = take

    def put(self, t: Tensor, values: Tensor) -> None:
        t.copy_(torch.where(self.nonzero, values, t))

    def cached(self, theta: Tensor | None, value: Callable[[], Tensor]) -> Tensor:
        return value()


Counts = NonZero | Everywhere


def find(x: Tensor) -> Counts:
    """The nonzero counts of a block x [..., g]."""
    return Everywhere.of(x) if recording() else NonZero.of(x)
