"""Where the counts are: nine in ten are zero, and the costly formulas are for the others."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pyroscvi.torch_internals import recording

__all__ = ["Counts", "Everywhere", "NonZero", "find"]


class Counts(Protocol):
    """The counts of a block [..., g] that are not zero, in whichever shape [k] they are worked on."""

    @property
    def x(self) -> Tensor:
        """The counts themselves [k]."""

    def take(self, t: Tensor) -> Tensor:
        """The values of t [..., g] at the counts [k]."""

    def take_cell(self, t: Tensor) -> Tensor:
        """The value of t [..., 1] for the cell of each count [k]."""

    def take_gene(self, t: Tensor) -> Tensor:
        """The value of t [g] for the gene of each count [k]."""

    def put(self, t: Tensor, values: Tensor) -> None:
        """Write values [k] into t [..., g], which is contiguous."""

    def once(self, theta: Tensor | None, value: Callable[[], Tensor]) -> Tensor:
        """What depends on the counts and theta [..., g] alone, worked out once as long as these are the same."""


@dataclass(frozen=True)
class NonZero:
    """The k counts that are not zero, gathered in one line."""

    x: Tensor
    at: Tensor  # flat positions in the block  [k]
    genes: int
    kept: dict[Any, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, x: Tensor) -> "NonZero":
        flat = x.reshape(-1)
        at = _positions(flat)
        return cls(flat.index_select(0, at), at, x.shape[-1])

    def take(self, t: Tensor) -> Tensor:
        return t.reshape(-1).index_select(0, self.at)

    def take_cell(self, t: Tensor) -> Tensor:
        return t.reshape(-1).index_select(0, self.at // self.genes)

    def take_gene(self, t: Tensor) -> Tensor:
        return t.index_select(0, self.gene)

    @cached_property
    def gene(self) -> Tensor:
        return self.at % self.genes

    def put(self, t: Tensor, values: Tensor) -> None:
        flat = t.reshape(-1)  # a copy where predictors came transposed, and what was made of them is as they are
        flat.scatter_(0, self.at, values)
        if not t.is_contiguous():
            t.copy_(flat.view(t.shape))

    def once(self, theta: Tensor | None, value: Callable[[], Tensor]) -> Tensor:
        key = None if theta is None else (theta.data_ptr(), theta.stride())
        if key not in self.kept:
            self.kept.clear()  # theta has moved on, and will not be back
            self.kept[key] = value()
        return self.kept[key]


@dataclass(frozen=True)
class Everywhere:
    """All places, with a one where the count is zero: for a compiled graph, whose shapes must not depend on x."""

    x: Tensor
    counted: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "Everywhere":
        counted = x != 0
        return cls(torch.where(counted, x, 1.0), counted)

    def take(self, t: Tensor) -> Tensor:
        return t

    take_cell = take_gene = take

    def put(self, t: Tensor, values: Tensor) -> None:
        t.copy_(torch.where(self.counted, values, t))

    def once(self, theta: Tensor | None, value: Callable[[], Tensor]) -> Tensor:
        return value()


def find(x: Tensor) -> Counts:
    return Everywhere.of(x) if recording() else NonZero.of(x)


def _positions(x: Tensor) -> Tensor:
    nonzero = x.bool()
    if x.device.type == "cpu":  # numpy skips zeros eight bytes at a time: several times as fast as torch
        return torch.from_numpy(np.flatnonzero(nonzero.numpy()))
    return nonzero.nonzero().squeeze(-1)
