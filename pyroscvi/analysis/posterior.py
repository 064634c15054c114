"""What analyses have in common: cells read in minibatches, and the counts that a model expects of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.handlers import intervene
from pyroscvi.inference.elbo import Sites, factor, joint, product
from pyroscvi.inference.seeds import seeded

if TYPE_CHECKING:
    from pyroscvi.fitting.result import Fit

__all__ = ["Expected", "Level", "Told", "codes", "counted", "each", "expected"]

T = TypeVar("T")
Level = str | Sequence[str]


def each(fit: Fit, cells: Cells, do: Callable[[Cells], T], seed: int, batch_size: int) -> Iterator[T]:
    """What is done with every minibatch, in order, without gradients; whoever looks on sees no random number drawn."""
    for i, minibatch in enumerate(cells.minibatches(batch_size, hops=fit.guide.encoder.hops)):
        with torch.no_grad(), seeded(seed + i, cells.device), pyro.validation_enabled(False):
            done = do(minibatch)
        yield done


def codes(fit: Fit, n: int, levels: Mapping[str, Level]) -> dict[str, Tensor]:
    """Codes [n] of levels by name, one for all cells or one for each; KeyError for a name that the fit never saw."""
    found = {}
    for field, told in levels.items():
        if field not in fit.levels:
            raise KeyError(f"the fit knows no field {field!r}; it knows {', '.join(fit.levels) or 'none'}")
        known = {name: code for code, name in enumerate(fit.levels[field])}
        names = [told] if isinstance(told, str) else [str(name) for name in told]
        if strange := [name for name in names if name not in known]:
            raise KeyError(f"no level {strange[0]!r} of {field!r}; there are {', '.join(known)}")
        if len(names) not in (1, n):
            raise ValueError(f"{field}: give one level, or one for each of the {n} cells, not {len(names)}")
        found[field] = torch.tensor([known[name] for name in names]).expand(n)
    return found


class Told(intervene):
    """Intervene on these very cells and no others (a prior may read pseudo-cells), and notice what was asked for."""

    def __init__(self, cells: Cells, levels: Mapping[str, Tensor]):
        super().__init__(**levels)
        self.cells = cells
        self.asked: set[str] = set()

    def _pyro_read(self, message: dict) -> None:
        cells, name = message["args"]
        if cells is self.cells:
            self.asked.add(name)
            super()._pyro_read(message)

    def check(self) -> None:
        """ValueError if the model never asked for what it was told."""
        for name in self.levels:
            if name not in self.asked:
                asked = ", ".join(sorted(self.asked)) or "nothing"
                raise ValueError(
                    f"the model does not read {name!r}, so setting it would change nothing; it reads {asked}"
                )


class Expected(NamedTuple):
    """The distribution of the counts of cells at one draw of the posterior.

    counts   batch shape [n], or [..., n] where counts depend on enumerated levels
    weights  p(k | x, z) of those levels [..., n]; None where there are none
    """

    counts: Any
    weights: Tensor | None

    def mean(self, value: Tensor) -> Tensor:
        """A quantity of every level [..., n, g], averaged over levels [n, g]."""
        return value if self.weights is None else (self.weights.unsqueeze(-1) * value).flatten(0, -3).sum(0)

    def sample(self) -> Tensor:
        """Counts [n, g]."""
        drawn = self.counts.sample()
        if self.weights is None:
            return drawn
        k = torch.distributions.Categorical(self.weights.flatten(0, -2).T).sample()
        return drawn.flatten(0, -3)[k, torch.arange(len(k), device=k.device)]


def expected(fit: Fit, cells: Cells, levels: Mapping[str, Tensor], guide: Any = None) -> Expected:
    """One draw of the latents of these cells, read as they are, and their counts under these levels [n].

    guide   what draws the latents, if not the guide of the fit
    """
    p, q = joint(fit.model, guide or fit.guide, cells)
    if not levels:
        return counted(p)
    drawn = {name: site["value"] for name, site in q.items()}
    held = poutine.enum(poutine.condition(fit.model, data=drawn), first_available_dim=-2)
    with Told(cells, levels) as told:
        counts = poutine.trace(held).get_trace(cells).nodes["x"]["fn"]
    told.check()
    return counted(p, counts)


def counted(p: Sites, counts: Any = None) -> Expected:
    """The counts of a model that was run at given latents (or others), with the levels weighed as those latents say."""
    counts = p["x"]["fn"] if counts is None else counts
    if len(counts.batch_shape) < 2:
        return Expected(counts, None)
    log_p = product([f for f in map(factor, p.values()) if f.local])
    weights = log_p.flatten(0, -2).softmax(0).reshape(log_p.shape)
    return Expected(counts.expand(log_p.shape), weights)
