"""Schedules of the KL weight beta: how long a fit may ignore the prior before it must follow it.

A schedule goes by the progress of a run, not by its epochs, so that whatever their number it arrives at 1. As the
``warmup`` of ``fit`` a number is short for ``Linear``.

References
    Bowman, S. R. et al. (2016) Generating sentences from a continuous space. CoNLL. arXiv:1511.06349
    Fu, H. et al. (2019) Cyclical annealing schedule: a simple approach to mitigating KL vanishing. NAACL.
    arXiv:1903.10145
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Constant", "Cosine", "Cyclical", "Linear", "Patience", "Schedule"]


@dataclass(frozen=True)
class Schedule:
    """A slot from the progress of a run, 0 at its first step and 1 at its last, to the KL weight beta."""

    @property
    def settled(self) -> float:
        """The progress after which beta no longer changes."""
        return 0.0

    def __call__(self, progress: float) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """The same weight throughout: 1 is the evidence lower bound, anything else a beta-VAE [Higgins et al., 2017]."""

    beta: float = 1.0

    def __call__(self, progress: float) -> float:
        return self.beta


@dataclass(frozen=True)
class Linear(Schedule):
    """From ``start`` to 1 in a straight line, over a fraction of the run."""

    fraction: float = 0.25
    start: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ValueError(f"a warm-up is a fraction of the run, in [0, 1), not {self.fraction}: it has to end")

    @property
    def settled(self) -> float:
        return self.fraction

    def __call__(self, progress: float) -> float:
        return (
            1.0 if progress >= self.fraction else self.start + (1 - self.start) * self.shape(progress / self.fraction)
        )

    def shape(self, t: float) -> float:
        return t


@dataclass(frozen=True)
class Cosine(Linear):
    """From ``start`` to 1 along half a cosine: slowly at both ends."""

    def shape(self, t: float) -> float:
        return (1 - math.cos(math.pi * t)) / 2


@dataclass(frozen=True)
class Cyclical(Schedule):
    """From 0 to 1 again and again, in equal cycles: each rises for the fraction ``rise`` of its length, then stays."""

    cycles: int = 4
    rise: float = 0.5

    def __post_init__(self) -> None:
        if self.cycles < 1 or not 0 <= self.rise < 1:
            raise ValueError("a cyclical warm-up has at least one cycle, and rises for a fraction of it in [0, 1)")

    @property
    def settled(self) -> float:
        return (self.cycles - 1 + self.rise) / self.cycles

    def __call__(self, progress: float) -> float:
        within = (progress * self.cycles) % 1.0
        return 1.0 if progress >= self.settled or within >= self.rise else within / self.rise


@dataclass(frozen=True)
class Patience:
    """Early stopping: how many epochs without a better held-out ELBO are waited for.

    epochs  a tenth of the run if None, and 10 at least
    least   by how much it must be better, in nats per cell
    watch   what must be better, in the place of the ELBO: of model, guide and held-out cells, in nats per cell
    every   epochs between two looks at it
    """

    epochs: int | None = None
    least: float = 0.0
    watch: Callable[[Any, Any, Any], float] | None = None
    every: int = 1

    def waits(self, run: int) -> int:
        """How many epochs, in a run of so many."""
        return max(run // 10, 10) if self.epochs is None else self.epochs
