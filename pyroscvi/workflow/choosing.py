"""Likelihood, dimensions and prior by the evidence of held-out cells, within a time.

First the likelihoods are compared, and then, with the best of them, other numbers of dimensions and another prior.
Every candidate is fitted with three seeds. Where this would take too long, candidates are fitted to fewer cells, then
with down to half of the usual epochs, and then the last candidates and stages are left out: two candidates with three
seeds can be told apart, and four with one seed cannot. What fits and evidences really take replaces what was predicted.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyroscvi.comparison.compare import compare
from pyroscvi.comparison.result import Comparison
from pyroscvi.comparison.sweep import sweep
from pyroscvi.data.cells import Cells
from pyroscvi.fitting.fit import default_epochs, fit
from pyroscvi.fitting.result import Fit
from pyroscvi.inference.captured import pays
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, ZINB, LatentSize, Mixture, Poisson
from pyroscvi.program import Guide, Model

SEEDS = 3
LEAST = 0.5  # of the usual epochs: with fewer, candidates are rarely converged
SIZES = (4_000, 2_000)  # candidates are fitted to so many cells: the first number for which there is time
MAX_SCORED = 300  # held-out cells that are compared on
PARTICLES, CERTIFIED = 2_000, 12  # draws of an evidence; simulated cells that certify it, for each fit
NEW = 3  # candidates of a stage that no stage before has fitted
SHARES = {"likelihood": 0.35, "dimensions and prior": 0.65}  # of the time, by whose end a stage should be over
FEWEST = 0.25  # of the held-out cells, where there is no time to compare on more
SCORING = 0.7  # seconds of the evidence of a fit for each second of its training, before any was measured


@dataclass
class Clock:
    """How much of the time is over."""

    seconds: float
    began: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began

    def left(self, share: float = 1.0) -> float:
        """Seconds until this share of the time is over."""
        return share * self.seconds - self.spent


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    model, guide  declarations
    comparisons   by stage, where there was time for any
    fits          fits of what was chosen, with different seeds
    pace          seconds of training for each cell and epoch; None if there was no time to measure it
    how           settings of ``fit`` that the final fit shares with the candidates
    notes         what was compared, one sentence each
    """

    model: Model
    guide: Guide
    comparisons: Mapping[str, Comparison]
    fits: list[Fit]
    pace: float | None
    how: Mapping[str, Any]
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
    training = {"compile": _recorded(seen), **training}
    pace = _pace(model, guide, seen, seed, training) if clock.left() > 1 else None
    number, epochs = affordable(len(seen), pace or 0.0, clock.seconds)
    epochs = training.get("epochs") or epochs
    if len(seen) > number:
        seen = seen.split(number / len(seen), by=by, seed=seed)[1]
    how = {**training, "epochs": epochs, "validation": held_out}

    def fitted(name: str, declared: Model, number: int) -> list[Fit]:
        pair = {name: (declared, guide)}
        return sweep(pair, seen, folder=folder, seeds=[seed + number], tell=tell, **how).by_seed.get(name, [])

    candidates = Candidates(fitted, 0.0 if pace is None else pace * len(seen) * epochs)
    stages: dict[str, Callable[[Any], dict[str, Model]]] = {
        "likelihood": lambda best: {
            "nb": best, "zinb": replace(best, likelihood=ZINB()), "poisson": replace(best, likelihood=Poisson())
        },
        "dimensions and prior": lambda best: {
            "latent 10": best, "latent 5": replace(best, latent=5), "latent 20": replace(best, latent=20),
            "latent 10, mixture prior": replace(best, prior=Mixture()),
        },
    }  # fmt: skip
    comparisons: dict[str, Comparison] = {}
    notes = []
    for stage, declare in stages.items():
        declared = declare(model)
        fits = candidates.within(declared, clock, SHARES[stage])
        if len(fits) < 2:  # the time of the stages that follow is taken, too
            fits = candidates.within(declared, clock, max(SHARES.values()))
        if len(fits) < 2:
            notes.append(f"There was no time to compare choices of {stage}: the usual one was taken.")
            continue
        left = max(clock.left(SHARES[stage]), 0.05 * clock.seconds)
        if tell is not None:
            tell(f"comparing {', '.join(fits)} on {len(held_out):,} held-out cells")
        given: Any = fits
        began = clock.spent
        result = comparisons[stage] = compare(
            given, held_out, PARTICLES, seed, budget=left, certify=True, simulated=CERTIFIED, progress=tell is not None
        )
        of_one = (clock.spent - began) / sum(map(len, fits.values()))
        candidates.scoring = of_one * min(1, FEWEST * len(held_out) / len(result.by_cell))
        best = preferred(result.table["verdict"], declared)
        model = declared[best]
        notes.append(_note(stage, best, result, fits, [name for name in declared if name not in fits]))
    chosen = candidates.known.setdefault(repr(model), [])
    for number in range(len(chosen), SEEDS):  # they show how much clusters depend on the seed
        if pace is None or candidates.training > clock.left(max(SHARES.values())):
            break
        chosen += fitted("chosen", model, number)
    measured = [one.record["seconds"] / (len(seen) * epochs) for one in chosen]
    pace = float(np.mean(measured)) if measured else pace
    return Choice(model, guide, comparisons, chosen, pace, training, tuple(notes))


@dataclass
class Candidates:
    """The fits of candidates, and the seconds that one of them takes.

    fit       fits a declaration: (its name, the model, the number of the seed) -> its fit in a list, or an empty list
    training  seconds of the slowest fit; at first as predicted
    scoring   seconds of the evidence of a fit on the fewest cells that are compared on, with its certificate
    known     fits by what was declared
    """

    fit: Callable[[str, Model, int], list[Fit]]
    training: float
    scoring: float | None = None
    known: dict[str, list[Fit]] = field(default_factory=dict)

    def within(self, declared: Mapping[str, Model], clock: Clock, share: float) -> dict[str, list[Fit]]:
        """The fits of as many candidates, the first ones, as end with three seeds within a share of the time."""
        kept, fits = list(declared), {name: self.known.setdefault(repr(one), []) for name, one in declared.items()}
        for number in range(SEEDS):
            for name, model in declared.items():
                while len(kept) > 2 and self._needed(fits, kept) > clock.left(share):
                    kept.pop()
                if name not in kept or len(fits[name]) > number:
                    continue
                least = self._needed(fits, kept) if number == 0 else self.training
                if least > clock.left(share):
                    return {one: fits[one] for one in kept if fits[one]}
                fits[name] += self.fit(name, model, number)
                seconds = [fit.record["seconds"] for several in self.known.values() for fit in several]
                self.training = max(seconds, default=self.training)
        return {name: fits[name] for name in kept if fits[name]}

    def _needed(self, fits: Mapping[str, list[Fit]], kept: list[str]) -> float:
        """Seconds until these candidates have three seeds and are compared."""
        scoring = SCORING * self.training if self.scoring is None else self.scoring
        return sum(self.training * max(SEEDS - len(fits[name]), 0) + scoring * SEEDS for name in kept)


def preferred(verdicts: Mapping[str, str], declared: Mapping[str, Model]) -> str:
    """The best candidate; or the first one that was declared, if it cannot be told from the best.

    >>> preferred({"zinb": "best", "nb": "indistinguishable"}, {"nb": ..., "zinb": ...})
    'nb'
    """
    first = next(name for name in declared if name in verdicts)
    best = next(name for name, verdict in verdicts.items() if verdict == "best")
    return first if verdicts[first] == "indistinguishable" else best


def _note(stage: str, chosen: str, result: Comparison, fits: Mapping[str, list[Fit]], left_out: list[str]) -> str:
    """What was compared, with how many seeds, what was chosen, and for what there was no time."""
    seeds = min(map(len, fits.values()))
    best = str(result.table.index[0])
    why = "" if chosen == best else f", which cannot be told from {best}, the best"
    late = f" There was no time for {'; '.join(left_out)}." if left_out else ""
    number = "one seed" if seeds == 1 else f"{seeds} seeds each"
    return f"{stage.capitalize()}: {chosen}, of {'; '.join(fits)}, with {number}{why}.{late}"


def affordable(cells: int, pace: float, seconds: float) -> tuple[int, int]:
    """The number of cells, and of epochs, with which every candidate of a stage can be fitted with three seeds.

    pace     seconds of training for each cell and epoch
    seconds  of the whole analysis

    With less than half of the usual epochs for each there is time for fewer candidates only.

    >>> affordable(10_000, 1e-5, 600), affordable(10_000, 1e-4, 600), affordable(10_000, 1e-3, 600)
    ((4000, 60), (2000, 58), (2000, 32))
    """
    first, both = SHARES.values()
    for_one = min(first, both - first) * seconds / (NEW * SEEDS) / (1 + SCORING)
    size = cells
    for size in (min(size, cells) for size in SIZES):
        if pace * size * default_epochs(size) <= for_one:
            return size, default_epochs(size)
    return size, max(int(for_one / (pace * size)), math.ceil(LEAST * default_epochs(size)))


def _recorded(cells: Cells) -> bool | str:
    """How steps are compiled: recorded where that pays, as the seeds of a candidate share what was recorded."""
    if torch.cuda.is_available():
        return "auto"
    return "trace" if pays(cells, default_epochs(len(cells)), SEEDS * math.ceil(len(cells) / 128)) else False


def _pace(model: Model, guide: Guide, seen: Cells, seed: int, training: Mapping[str, Any]) -> float:
    """Seconds of training for each cell and epoch; a first fit records the step, and is not measured."""
    for epochs in (1, 2):
        probe = fit(model, guide, seen, **{**training, "epochs": epochs, "seed": seed, "progress": False})
    return probe.record["seconds"] / (epochs * len(seen))
