"""Posterior draws for analyses: of the guide, or of the posterior itself by importance resampling.

Analyses of posterior draws run the model on a guide, once for each draw. The guide may be one that knows the draws
already: ``Given`` samples the latents of these cells from their pools (``evidence.resampling``).
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, NamedTuple, TypeVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyroscvi.analysis.posterior import each
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.estimator import Target
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.resampling import RESAMPLE, Pool, pools
from pyroscvi.inference.seeds import seeded
from pyroscvi.program import Fitted

T = TypeVar("T")
Guide = Callable[[Cells], Any]


@dataclass(frozen=True)
class Given:
    """A guide of these very cells whose latents have given values [n, d]; those that cells share have values [d]."""

    values: Mapping[str, Tensor]
    shared: Mapping[str, Tensor] = field(default_factory=dict)

    def __call__(self, cells: Cells) -> None:
        for name, value in self.shared.items():
            pyro.sample(name, dist.Delta(value, event_dim=1))
        with cells.plate():
            for name, value in self.values.items():
                pyro.sample(name, dist.Delta(value, event_dim=1))


class Resampled(NamedTuple):
    """A minibatch with draws of its posterior.

    target  its joint density, in double precision
    pool    weighted draws of a proposal
    draws   u, resampled by their weights [s, n, d]
    """

    target: Target[Joint]
    pool: Pool
    draws: Tensor

    @property
    def rows(self) -> Tensor:
        """Rows of its cells in the data set [n]."""
        index = self.target.joint.cells.index
        return torch.arange(self.draws.shape[1]) if index is None else index


def resampled(reader: Reader, samples: int, seed: int = 0, **options: Any) -> Iterator[Resampled]:
    """Minibatches in the order of the cells, each with ``samples`` draws of its posterior.

    options  of ``evidence.resampling.pools``

    Warns of cells whose weights are so uneven that the draws follow the proposal rather than the posterior. Latents
    that cells share are held at the centre of their posterior.
    """
    uneven = total = 0
    for target, pool in pools(reader, seed=seed, **options):
        uneven += int((~pool.sufficient).sum())
        total += len(pool.sufficient)
        yield Resampled(target, pool, pool.resampled(target.streams.anew(RESAMPLE), samples))
    if uneven:
        problem = f"the weights of {uneven:,} of {total:,} cells are too uneven to correct with"
        consequence = "their draws are nearer to a proposal than to the posterior"
        warnings.warn(f"corrected=True: {problem}; {consequence}", stacklevel=3)


def each_drawn(
    fit: Fitted, cells: Cells, do: Callable[[Cells, Iterable[Guide]], T], samples: int, seed: int, batch_size: int,
    corrected: bool,
) -> Iterator[T]:  # fmt: skip
    """``do(minibatch, guides)`` for every minibatch, with one guide for each of the ``samples``: ``posterior.each``."""
    if not corrected:
        yield from each(fit, cells, lambda minibatch: do(minibatch, repeat(fit.guide, samples)), seed, batch_size)
        return
    reader = Reader(fit, cells)
    shared = {name: value.to(cells.dtype) for name, value in reader.held.items()}
    for i, piece in enumerate(resampled(reader, samples, seed)):
        values = {name: value.to(cells.dtype) for name, value in piece.target.joint.values(piece.draws).items()}
        given = [Given({name: value[s] for name, value in values.items()}, shared) for s in range(samples)]
        minibatch = cells.take(piece.rows, fit.hops)
        with torch.no_grad(), seeded(seed + i, cells.device), pyro.validation_enabled(False):
            result = do(minibatch, given)
        yield result
