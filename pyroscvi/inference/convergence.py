"""Convergence: did a fit still improve when its training ended?

The bound after each epoch cannot answer this. Steps of Adam scatter around an optimum, by less where the learning rate
falls, and so the bound rises to the end of a run even if the parameters have arrived. The mean of many states has
little of this scatter. A fit has not converged if the bound at the mean state of the part ``LATE`` of its run is more
than ``MAX_GAIN`` above that of the part ``EARLY``.

What this difference and twice as many epochs were worth (held-out bound, nats a cell): NB on 630 cells of 765 genes, 25
epochs, 3.5 and 7.4; 50 epochs, 1.4 and 1.9; 100 epochs, -0.2 and -6.8; ZINB on 1,318 cells of 1,000 genes, 91 epochs,
-0.7 and -10.5.

The bound of training cells rises as long as a fit overfits, so it only shows fits that are far from the end.
``fit(validation=held_out)`` judges a fit by the cells that it will be compared on.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from pyroscvi.inference.average import Average

State = Mapping[str, torch.Tensor]

MAX_GAIN = 1.0  # nats a cell, of held-out cells
MAX_TRAINING_GAIN = 0.02  # of the bound's own size, where no cells were held out
MARKS = 64  # states of a run that may be averaged, at equal distances
EARLY, LATE = (1 / 2, 5 / 8), (7 / 8, 1.0)  # parts of the run


class MeanBounds:
    """The bounds of the mean states of ``EARLY`` and ``LATE``.

    steps   of the whole run
    bounds  of training cells and of held-out cells, for each part that has ended; nats a cell

    >>> means = MeanBounds(steps=64)
    >>> for step in range(1, 65):
    ...     means.add(step, lambda: {"weight": torch.tensor(float(step))}, lambda state: [state["weight"].item()])
    >>> means.bounds
    [[36.5], [60.5]]
    """

    def __init__(self, steps: int):
        self.steps, self.mean = steps, Average()
        self.bounds: list[list[float]] = []

    def add(self, step: int, state: Callable[[], State], bounds: Callable[[State], list[float]]) -> None:
        """After every step: average the state if it is one of those, and at the end of a part compute its bounds."""
        marks = min(MARKS, self.steps)
        mark = step * marks // self.steps
        if mark == (step - 1) * marks // self.steps:
            return
        for start, end in (EARLY, LATE):
            if start * marks < mark <= int(end * marks):
                self.mean.add(state())
                if mark == int(end * marks):
                    self.bounds.append(bounds(self.mean.state))
                    self.mean = Average()

    def by_name(self) -> dict[str, list[float]]:
        """The two bounds under the names that they have in a history; empty before the end of a run."""
        if len(self.bounds) < 2:
            return {}
        pairs = zip(("elbo_train", "elbo_held_out"), zip(*self.bounds, strict=True), strict=True)
        return {name: list(pair) for name, pair in pairs if not any(map(math.isnan, pair))}


def has_converged(bounds: Mapping[str, Sequence[float]]) -> bool | None:
    """Whether a run had converged, by ``MeanBounds.by_name``; None if that is not known.

    >>> has_converged({"elbo_train": [-510, -490], "elbo_held_out": [-520.0, -519.5]})
    True
    >>> has_converged({"elbo_train": [-510, -490]}), has_converged({})
    (False, None)
    """
    for name in ("elbo_held_out", "elbo_train"):
        if name in bounds:
            early, late = bounds[name]
            return late - early <= (MAX_GAIN if name == "elbo_held_out" else MAX_TRAINING_GAIN * abs(late))
    return None
