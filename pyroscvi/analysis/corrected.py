"""Draws in the place of the guide's: of the guide, or of the posterior itself by importance resampling.

Whatever is computed from posterior draws runs the model on a guide, once for each of them. A guide may be one that has
the answers already: ``Given`` draws of the latents of these cells, from their pools (``evidence.resampling``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyroscvi.analysis.posterior import each
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.resampling import AGAIN, Pool, pools
from pyroscvi.inference.seeds import seeded

if TYPE_CHECKING:
    from pyroscvi.evidence.reading import Read
    from pyroscvi.fitting.result import Fit

__all__ = ["Given", "each_drawn", "resampled"]

T = TypeVar("T")
Guide = Callable[[Cells], Any]


@dataclass(frozen=True)
class Given:
    """A guide of these very cells that says of every latent what it is {site: [n, d]}."""

    values: Mapping[str, Tensor]

    def __call__(self, cells: Cells) -> None:
        with cells.plate():
            for name, value in self.values.items():
                pyro.sample(name, dist.Delta(value, event_dim=1))


class Resampled(NamedTuple):
    """A minibatch with draws of its posterior.

    read    its joint density, in double precision
    pool    weighed draws of a proposal
    draws   u, drawn again by their weights [s, n, d]
    """

    read: Read
    pool: Pool
    draws: Tensor

    @property
    def rows(self) -> Tensor:
        """Where its cells are in the data set [n]."""
        index = self.read.joint.cells.index
        return torch.arange(self.draws.shape[1]) if index is None else index


def resampled(fit: Any, cells: Any, samples: int, seed: int = 0, **options: Any) -> Iterator[Resampled]:
    """Minibatches in the order of the cells, each with ``samples`` draws of its posterior.

    options  of ``evidence.resampling.pools``

    Warns of cells whose weights are too uneven for the draws to be told from the proposal's. Raises ValueError where
    cells share a latent.
    """
    uneven = total = 0
    for read, pool in pools(fit, cells, seed=seed, **options):
        uneven += int((~pool.settled).sum())
        total += len(pool.settled)
        yield Resampled(read, pool, pool.resampled(read.streams.anew(AGAIN), samples))
    if uneven:
        told = f"corrected=True: the weights of {uneven:,} of {total:,} cells are too uneven to correct with"
        warnings.warn(f"{told}; their draws are nearer to a proposal than to the posterior", stacklevel=3)


def each_drawn(
    fit: Fit,
    cells: Cells,
    do: Callable[[Cells, Iterable[Guide]], T],
    samples: int,
    seed: int,
    batch_size: int,
    corrected: bool,
) -> Iterator[T]:
    """What is done with every minibatch and so many guides, each of which is good for one draw: ``posterior.each``."""
    if not corrected:
        yield from each(fit, cells, lambda minibatch: do(minibatch, repeat(fit.guide, samples)), seed, batch_size)
        return
    for i, found in enumerate(resampled(fit, cells, samples, seed)):
        values = found.read.joint.values(found.draws)
        given = [Given({name: value[s].to(cells.dtype) for name, value in values.items()}) for s in range(samples)]
        minibatch = cells.take(found.rows, hops=0)
        with torch.no_grad(), seeded(seed + i, cells.device), pyro.validation_enabled(False):
            done = do(minibatch, given)
        yield done
