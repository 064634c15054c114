"""Schedules of the KL weight beta and of the learning rate during a fit, and early stopping.

A schedule depends on the progress of a run and not on its number of epochs, so that beta always arrives at 1. A number
given to ``fit`` as ``warmup`` is short for ``LinearWarmup``.

References
    Bowman, S. R. et al. (2016) Generating sentences from a continuous space. CoNLL. arXiv:1511.06349
    Fu, H. et al. (2019) Cyclical annealing schedule: a simple approach to mitigating KL vanishing. NAACL.
    arXiv:1903.10145
    Loshchilov, I. & Hutter, F. (2017) SGDR: stochastic gradient descent with warm restarts. ICLR. arXiv:1608.03983
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Constant", "Cosine", "CosineDecay", "Cyclical", "LinearWarmup", "Patience", "Schedule"]


@dataclass(frozen=True)
class Schedule:
    """The KL weight beta as a function of the progress of a run, which is 0 at its first step and 1 at its last."""

    @property
    def settled(self) -> float:
        """The progress after which beta no longer changes."""
        return 0.0

    def __call__(self, progress: float) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """Always the same weight: 1 gives the evidence lower bound, another one a beta-VAE [Higgins et al., 2017]."""

    beta: float = 1.0

    def __call__(self, progress: float) -> float:
        return self.beta


@dataclass(frozen=True)
class LinearWarmup(Schedule):
    """From ``start`` to 1 in a straight line during the first ``fraction`` of the run, then 1."""

    fraction: float = 0.25
    start: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ValueError(f"warmup is a fraction of the run, in [0, 1), not {self.fraction}: beta has to reach 1")

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
class Cosine(LinearWarmup):
    """From ``start`` to 1 along half a cosine, which is flat at both ends."""

    def shape(self, t: float) -> float:
        return (1 - math.cos(math.pi * t)) / 2


@dataclass(frozen=True)
class Cyclical(Schedule):
    """From 0 to 1 in each of several equal cycles: beta rises during the fraction ``rise`` of a cycle, then is 1."""

    cycles: int = 4
    rise: float = 0.5

    def __post_init__(self) -> None:
        if self.cycles < 1 or not 0 <= self.rise < 1:
            raise ValueError("Cyclical has at least one cycle, and rise is a fraction of it in [0, 1)")

    @property
    def settled(self) -> float:
        return (self.cycles - 1 + self.rise) / self.cycles

    def __call__(self, progress: float) -> float:
        within = (progress * self.cycles) % 1.0
        return 1.0 if progress >= self.settled or within >= self.rise else within / self.rise


@dataclass(frozen=True)
class CosineDecay:
    """The learning rate as a multiple of ``lr``: from 1 to ``end`` along half a cosine; ``end=1`` is a constant rate.

    Steps of Adam are about as long as the learning rate, so at a constant rate parameters never come to rest.
    """

    end: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.end <= 1:
            raise ValueError(f"end is the fraction of the learning rate that is left, in [0, 1], not {self.end}")

    def __call__(self, progress: float) -> float:
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Patience:
    """Early stopping: stop after so many epochs without a better value on held-out cells.

    epochs  how many; None is a tenth of the run, and at least 10
    least   the smallest improvement that counts, in nats per cell
    watch   computes the value from model, guide and held-out cells, in nats per cell; None is the held-out ELBO
    every   epochs between two evaluations of the value
    """

    epochs: int | None = None
    least: float = 0.0
    watch: Callable[[Any, Any, Any], float] | None = None
    every: int = 1

    def waits(self, run: int) -> int:
        """The number of epochs to wait in a run of ``run`` epochs."""
        return max(run // 10, 10) if self.epochs is None else self.epochs
