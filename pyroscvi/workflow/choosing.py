"""Likelihood, dimensions and prior by the evidence of held-out cells, within a time.

First the likelihoods are compared, and then, with the best of them, other numbers of dimensions and another prior.
Seeds come in rounds: every candidate is fitted once, then a second and a third time, as far as the time goes. Where
three rounds would take too long, candidates are fitted to fewer cells, and then with fewer epochs. Training has half of
the time of a stage; the other half is for evidences and their certificates.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyroscvi.comparison.compare import compare
from pyroscvi.comparison.result import Comparison
from pyroscvi.comparison.sweep import sweep
from pyroscvi.data.cells import Cells
from pyroscvi.fitting.fit import default_epochs, fit
from pyroscvi.fitting.result import Fit
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, ZINB, LatentSize, Mixture, Poisson
from pyroscvi.program import Guide, Model

Pair = tuple[Model, Guide]
SEEDS = 3
MIN_EPOCHS = 20  # of a candidate, however short the time is
SIZES = (4_000, 2_000)  # candidates are fitted to so many cells: the first number for which there is time
MAX_SCORED = 300  # held-out cells that are compared on
PARTICLES, CERTIFIED = 2_000, 12  # draws of an evidence; simulated cells that certify it, for each fit
NEW = 3  # candidates of a stage that no stage before has fitted
SHARES = {"likelihood": 0.35, "dimensions and prior": 0.65}  # of the time, by whose end a stage should be over


@dataclass
class Clock:
    """How much of the time is over."""

    seconds: float
    began: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began

    def has(self, seconds: float, share: float = 1.0) -> bool:
        """Whether so many more seconds end within this share of the time."""
        return self.spent + seconds <= share * self.seconds


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    model, guide  declarations
    comparisons   by stage, where there was time for any
    fits          fits of what was chosen, with different seeds
    pace          seconds of training for each cell and epoch; None if there was no time to measure it
    notes         what was compared, one sentence each
    """

    model: Model
    guide: Guide
    comparisons: Mapping[str, Comparison]
    fits: list[Fit]
    pace: float | None
    notes: tuple[str, ...]


def choose(
    cells: Cells, guide: Guide, clock: Clock, *, seed: int = 0, folder: Path | None = None,
    tell: Callable[[str], Any] | None = None, **training: Any,
) -> Choice:  # fmt: skip
    """The model that explains held-out cells best, of those for which there was time.

    guide     the guide of every candidate
    folder    where the fits of candidates are kept: the next call reads them
    training  settings of ``fit``
    """
    by = None if cells.batch is None else "batch"
    seen, held_out = cells.split(min(0.1, MAX_SCORED / len(cells)) if len(cells) > 50 else 0.2, by=by, seed=seed)
    model: Model = SCVI(likelihood=NB(), size=LatentSize())  # p(x), so that likelihoods are compared fairly
    pace = _pace(model, guide, seen, clock, seed)
    number, epochs = affordable(len(seen), pace or 0.0, clock.seconds)
    epochs = training.get("epochs") or epochs
    if len(seen) > number:
        seen = seen.split(number / len(seen), by=by, seed=seed)[1]
    predicted = 0.0 if pace is None else pace * len(seen) * epochs
    how = {**training, "epochs": epochs, "validation": held_out}
    stages: dict[str, Callable[[Any], dict[str, Model]]] = {
        "likelihood": lambda best: {
            "nb": best, "zinb": replace(best, likelihood=ZINB()), "poisson": replace(best, likelihood=Poisson())
        },
        "dimensions and prior": lambda best: {
            "latent 10": best, "latent 5": replace(best, latent=5), "latent 20": replace(best, latent=20),
            "latent 10, mixture prior": replace(best, prior=Mixture()),
        },
    }  # fmt: skip
    known: dict[str, list[Fit]] = {}  # by what was declared
    comparisons: dict[str, Comparison] = {}
    notes = []
    for stage, candidates in stages.items():
        declared = candidates(model)
        fits = _fitted(declared, guide, seen, clock, SHARES[stage], predicted, known, seed, folder, tell, how)
        if len(fits) < 2:
            notes.append(f"There was no time to compare choices of {stage}: the usual one was taken.")
            continue
        left = max(SHARES[stage] * clock.seconds - clock.spent, 0.05 * clock.seconds)
        if tell is not None:
            tell(f"comparing {', '.join(fits)} on {len(held_out):,} held-out cells")
        given: Any = fits
        result = comparisons[stage] = compare(
            given, held_out, PARTICLES, seed, budget=left, certify=True, simulated=CERTIFIED, progress=tell is not None
        )
        best = str(result.table.index[0])
        model = declared[best]
        left_out = [name for name in declared if name not in fits]
        notes.append(f"{stage.capitalize()}: {best}, of {', '.join(fits)}" + (
            f". There was no time for {', '.join(left_out)}." if left_out else "."
        ))  # fmt: skip
    return Choice(model, guide, comparisons, known.get(repr(model), []), pace, tuple(notes))


def _fitted(
    declared: Mapping[str, Model], guide: Guide, seen: Cells, clock: Clock, share: float, predicted: float,
    known: dict[str, list[Fit]], seed: int, folder: Path | None, tell: Callable[[str], Any] | None,
    how: Mapping[str, Any],
) -> dict[str, list[Fit]]:  # fmt: skip
    """Fits by name: every declaration with one seed, then with the next, while fits end within the share of time."""
    for number in range(SEEDS):
        for name, model in declared.items():
            several = known.setdefault(repr(model), [])
            if len(several) > number:
                continue
            took = max((fit.record["seconds"] for one in known.values() for fit in one), default=predicted)
            if not clock.has(1.2 * took, share):
                return {name: known[repr(one)] for name, one in declared.items() if known.get(repr(one))}
            swept = sweep({name: (model, guide)}, seen, folder=folder, seeds=[seed + number], tell=tell, **how)
            several += swept.by_seed.get(name, [])
    return {name: known[repr(model)] for name, model in declared.items() if known[repr(model)]}


def affordable(cells: int, pace: float, seconds: float) -> tuple[int, int]:
    """The number of cells, and of epochs, with which every candidate of a stage can be fitted with three seeds.

    pace     seconds of training for each cell and epoch
    seconds  of the whole analysis

    >>> affordable(10_000, 1e-5, 600), affordable(10_000, 1e-4, 600), affordable(10_000, 1e-3, 600)
    ((4000, 60), (2000, 50), (2000, 20))
    """
    first, both = SHARES.values()
    for_one = 0.5 * min(first, both - first) * seconds / (NEW * SEEDS)
    size = cells
    for size in (min(size, cells) for size in SIZES):
        if pace * size * default_epochs(size) <= for_one:
            return size, default_epochs(size)
    return size, max(int(for_one / (pace * size)), MIN_EPOCHS)


def _pace(model: Model, guide: Guide, seen: Cells, clock: Clock, seed: int) -> float | None:
    """Seconds of training for each cell and epoch, from a fit of two epochs; None if there is no time for one."""
    if not clock.has(1.0):
        return None
    probe = fit(model, guide, seen, epochs=2, seed=seed, progress=False, compile=False)
    return probe.record["seconds"] / (2 * len(seen))
