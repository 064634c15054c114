"""Functions that analyses share: cells in minibatches, and the distribution of their counts under a model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product as combined
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.handlers import intervene
from pyroscvi.inference.elbo import Sites, factor, joint, product
from pyroscvi.inference.progress import counted
from pyroscvi.inference.seeds import seeded
from pyroscvi.program import Fitted

T = TypeVar("T")
Level = str | Sequence[str]
Value = Level | float | Sequence[float]
Conditions = Mapping[str, Value]  # field or covariate: one value for all cells, or one for each
Over = str | Mapping[str, Sequence[str] | Sequence[float]]  # a field with all its levels, or fields with some of theirs


def each(fit: Fitted, cells: Cells, do: Callable[[Cells], T], seed: int, batch_size: int) -> Iterator[T]:
    """``do(minibatch)`` for every minibatch, in order, without gradients; global random generators stay untouched."""
    with counted("computing", len(cells)) as done:
        for i, minibatch in enumerate(cells.minibatches(batch_size, hops=fit.hops)):
            with torch.no_grad(), seeded(seed + i, cells.device), pyro.validation_enabled(False):
                result = do(minibatch)
            yield result
            done(len(minibatch))


def codes(fit: Fitted, n: int, levels: Mapping[str, Level]) -> dict[str, Tensor]:
    """Codes [n] of levels by name, one for all cells or one for each; KeyError for a name that the fit never saw."""
    result = {}
    for field, level in levels.items():
        if field not in fit.levels:
            raise KeyError(f"the fit knows no field {field!r}; it knows {_known(fit)}")
        known = {name: code for code, name in enumerate(fit.levels[field])}
        names = [level] if isinstance(level, str) else [str(name) for name in level]
        if unknown := [name for name in names if name not in known]:
            raise KeyError(f"no level {unknown[0]!r} of {field!r}; there are {', '.join(known)}")
        if len(names) not in (1, n):
            raise ValueError(f"{field}: give one level, or one for each of the {n} cells, not {len(names)}")
        result[field] = torch.tensor([known[name] for name in names]).expand(n)
    return result


def interventions(fit: Fitted, n: int, given: Conditions, average: Over | None = None) -> list[dict[str, Tensor]]:
    """What ``intervene`` sets for n cells: codes [n] of fields, standardised values [n] of covariates.

    given    values of fields, by the names of their levels, and of covariates, in their own units
    average  several values of fields or covariates: there is one dictionary for each combination of them

    Raises KeyError for a name that training did not have, and ValueError for values that do not suit the cells.
    """
    if isinstance(average, str):
        if average not in fit.levels:
            raise KeyError(f"the fit has no levels of {average!r} to average over; it has {_known(fit)}")
        average = {average: fit.levels[average]}
    average = average or {}
    if twice := set(average) & set(given):
        raise ValueError(f"{min(twice)!r} is both given and averaged over: leave it out of one of them")
    alone = {name: _values(fit, n, name, value) for name, value in given.items()}
    several = [[(name, _values(fit, n, name, value)) for value in values] for name, values in average.items()]
    if not all(several):
        raise ValueError("average names a field without a value to average over")
    return [alone | dict(chosen) for chosen in combined(*several)]


def _values(fit: Fitted, n: int, name: str, value: Any) -> Tensor:
    """Codes [n] of a field, or standardised values [n] of a covariate."""
    array = np.asarray(value)
    is_number = array.dtype.kind in "biuf"
    if name in fit.levels and not (is_number and name in fit.covariates):
        return codes(fit, n, {name: str(value) if is_number and not array.ndim else value})[name]
    if name not in fit.covariates:
        raise KeyError(f"the fit knows no field {name!r}; it knows {_known(fit)}")
    if not is_number or array.ndim > 1 or array.size not in (1, n) or not np.isfinite(array).all():
        raise ValueError(f"{name} is a covariate: give one finite number, or one for each of the {n} cells")
    mean, sd = fit.covariates[name]
    return torch.as_tensor((array.astype(np.float64) - mean) / (sd or 1.0)).expand(n)


def _known(fit: Fitted) -> str:
    return ", ".join([*fit.levels, *fit.covariates]) or "none"


class Intervention(intervene):
    """Intervene on these very cells and no others (a prior may read pseudo-cells), and record which fields are read."""

    def __init__(self, cells: Cells, levels: Mapping[str, Tensor]):
        super().__init__(**levels)
        self.cells = cells
        self.fields: set[str] = set()

    def _pyro_read(self, message: dict) -> None:
        cells, name, _ = message["args"]
        if cells is self.cells:
            self.fields.add(name)
            super()._pyro_read(message)

    def check(self) -> None:
        """Raises ValueError if the model did not read a field that is set."""
        for name in self.levels:
            if name not in self.fields:
                fields = ", ".join(sorted(self.fields)) or "nothing"
                raise ValueError(
                    f"the model does not read {name!r}, so setting it would change nothing; it reads {fields}"
                )


def fields_read(fit: Fitted, cells: Cells) -> set[str]:
    """The fields of cells that the model reads."""
    some = cells.take(torch.arange(min(2, len(cells))), fit.hops)
    with torch.no_grad(), seeded(0, cells.device), poutine.block(), Intervention(some, {}) as recorder:
        poutine.trace(fit.model).get_trace(some)
    return recorder.fields


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


def expected(fit: Fitted, cells: Cells, levels: Mapping[str, Tensor], guide: Any = None, site: str = "x") -> Expected:
    """One draw of the latents of these cells, under their own conditions, and their counts under these levels [n].

    guide   draws the latents instead of the fit's guide
    site    the counts: "x" of genes, "proteins" of proteins
    """
    return next(each_expected(fit, cells, [levels], guide, site))


def each_expected(
    fit: Fitted, cells: Cells, several: Sequence[Mapping[str, Tensor]], guide: Any = None, site: str = "x"
) -> Iterator[Expected]:
    """``expected`` under each of several interventions, all at one draw of the latents."""
    p, q = joint(fit.model, guide or fit.guide, cells)
    drawn = {name: site["value"] for name, site in q.items()}
    conditioned = poutine.enum(poutine.condition(fit.model, data=drawn), first_available_dim=-2)
    seen = not hasattr(fit.guide, "without_counts")
    for levels in several:
        if not levels:
            yield counts_of(p, site=site, seen=seen)
            continue
        with Intervention(cells, levels) as intervention:
            counts = poutine.trace(conditioned).get_trace(cells).nodes[site]["fn"]
        intervention.check()
        yield counts_of(p, counts, site, seen=seen)


def rates(counts: Any, total: float | None = None) -> Tensor:
    """Means of counts without their extra zeros [..., n, g]; those of a cell sum to ``total``, if it is given."""
    mu = counts.mu if hasattr(counts, "mu") else counts.mean
    return mu if total is None else mu * (total / mu.sum(-1, keepdim=True))


def columns_of(fit: Fitted, genes: Sequence[str] | None) -> Any:
    """Numbers of genes by name, all of them for None; KeyError for a gene that training did not have."""
    place = {name: g for g, name in enumerate(fit.genes)}
    if unknown := [gene for gene in genes or () if gene not in place]:
        raise KeyError(f"the fit knows no gene {unknown[0]!r}")
    return slice(None) if genes is None else torch.tensor([place[gene] for gene in genes])


def counts_of(p: Sites, counts: Any = None, site: str = "x", *, seen: bool = True) -> Expected:
    """The counts of a model (or the given ones), with every enumerated level weighted by its probability.

    p      the sites of a run of the model at given latents
    site   the site of the counts
    seen   whether the weights of the levels depend on the counts and labels of the cells, or on the latents alone
    """
    x = p[site]
    counts = x["fn"] if counts is None else counts
    if seen and hasattr(counts, "after"):  # it has latent states inside: take them given the counts of the cell
        counts = counts.after(x["value"], x["fn"])
    if len(counts.batch_shape) < 2:
        return Expected(counts, None)
    informative = [node for node in p.values() if seen or not node["is_observed"]]
    log_p = product([f for f in map(factor, informative) if f.local])
    weights = log_p.flatten(0, -2).softmax(0).reshape(log_p.shape)
    return Expected(counts.expand(log_p.shape), weights)
