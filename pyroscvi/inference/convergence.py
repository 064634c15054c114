"""Convergence: did a fit still improve when its training ended?

The last epochs cannot answer this. The learning rate may fall towards the end of a run, and then the bound is flat
there because hardly a step is taken. So time is counted by learning rate: an epoch takes as much time as its rate is
high. A fit has not converged if its bound rose by more than ``MAX_GAIN`` in the last fifth of this time (of a rate that
falls along half a cosine to zero, that is the second half of the epochs).

NB on 630 cells of 765 genes, cosine: a fit of 25, 50, 100, 200 epochs gained 4.5, 2.2, 1.6 and -2.3 nats of held-out
bound in this fifth, and twice as many epochs changed the evidence of other cells by 9.8, 7.1, 0.7 and -8.6.
The bound of training cells rises as long as a fit overfits (by 7 to 10 nats of 650 in the same fifth; by 4 of 165 for a
Poisson on over-dispersed counts), so it only shows fits that are far from the end. ``fit(validation=held_out)`` judges
a fit by the cells that it will be compared on.
"""

from collections.abc import Sequence

import numpy as np

MAX_GAIN = 2.0  # nats a cell, of held-out cells
MAX_TRAINING_GAIN = 0.04  # of the bound's own size, where no cells were held out
LAST_SHARE = 0.2  # of the learning time


def gain(bound: Sequence[float], rate: Sequence[float] | None = None) -> float:
    """Rise of the bound in the last fifth of a run, by a straight line; 0 if the slope is within two errors of 0.

    bound  after every epoch, in nats a cell; NaN where it was not computed; of two epochs at least
    rate   learning rate at the end of every epoch; None is a constant one

    >>> round(gain(np.linspace(-510, -500, 101)), 2)
    2.02
    """
    y = np.asarray(bound, dtype=float)
    time = np.cumsum(np.ones(len(y)) if rate is None else np.asarray(rate, dtype=float))
    time /= time[-1]
    y, time = y[~np.isnan(y)], time[~np.isnan(y)]
    start = min(np.searchsorted(time, 1 - LAST_SHARE, side="right"), len(y) - 2)
    x, y = time[start:] - time[start:].mean(), y[start:] - y[start:].mean()
    slope = (x * y).sum() / (x**2).sum()
    error = np.sqrt(((y - slope * x) ** 2).sum() / max(len(x) - 2, 1) / (x**2).sum())
    return float(LAST_SHARE * slope) if slope > 2 * error else 0.0


def has_converged(bound: Sequence[float], rate: Sequence[float] | None = None, *, held_out: bool = True) -> bool | None:
    """Whether a run had converged; None after less than two epochs. Other arguments are those of ``gain``.

    held_out  the bound is that of held-out cells, and not of training cells

    >>> has_converged([-9.0, -5.0, -3.0, -2.8]), has_converged([-900.0, -500.0, -300.0, -200.0]), has_converged([])
    (True, False, None)
    """
    if np.isfinite(np.asarray(bound, dtype=float)).sum() < 2:
        return None
    largest = MAX_GAIN if held_out else MAX_TRAINING_GAIN * abs(float(np.asarray(bound)[-1]))
    return gain(bound, rate) <= largest
