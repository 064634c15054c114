"""Convergence: did a fit still improve when its training ended?

The last epochs cannot answer this. The learning rate may fall towards the end of a run, and then the bound is flat
there because hardly a step is taken. So time is counted by learning rate: an epoch takes as much time as its rate is
high. A fit has not converged if its bound rose by more than ``MAX_GAIN`` in the last fifth of this time (of a rate that
falls along half a cosine to zero, that is the second half of the epochs).

NB on 630 cells of 765 genes, cosine: a fit of 25, 50, 100, 200 epochs gained 4.5, 2.2, 1.6 and -2.3 nats in this fifth,
and twice as many epochs changed the evidence of held-out cells by 9.8, 7.1, 0.7 and -8.6.
"""

from collections.abc import Sequence

import numpy as np

MAX_GAIN = 2.0  # nats a cell
LAST = 0.2  # of the learning time


def gain(bound: Sequence[float], rate: Sequence[float] | None = None) -> float:
    """Rise of the bound in the last fifth of a run, by a straight line; 0 if the slope is within two errors of 0.

    bound  after every epoch, in nats a cell; of two epochs at least
    rate   learning rate at the end of every epoch; None is a constant one

    >>> round(gain(np.linspace(-510, -500, 101)), 2)
    2.02
    """
    y = np.asarray(bound, dtype=float)
    time = np.cumsum(np.ones(len(y)) if rate is None else np.asarray(rate, dtype=float))
    time /= time[-1]
    start = min(np.searchsorted(time, 1 - LAST, side="right"), len(y) - 2)
    x, y = time[start:] - time[start:].mean(), y[start:] - y[start:].mean()
    slope = (x * y).sum() / (x**2).sum()
    error = np.sqrt(((y - slope * x) ** 2).sum() / max(len(x) - 2, 1) / (x**2).sum())
    return float(LAST * slope) if slope > 2 * error else 0.0


def has_converged(bound: Sequence[float], rate: Sequence[float] | None = None) -> bool | None:
    """Whether a run had converged; None after less than two epochs. Arguments are those of ``gain``.

    >>> has_converged([-9.0, -5.0, -3.0, -2.8]), has_converged([-900.0, -500.0, -300.0, -200.0]), has_converged([])
    (True, False, None)
    """
    return gain(bound, rate) <= MAX_GAIN if len(bound) > 1 else None
