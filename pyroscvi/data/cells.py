"""Cells: the one argument of every model and every guide.

``Fields`` says where things are in an AnnData; ``Cells`` is what was found there. Counts stay sparse, or on disk, until
they are looked at: ``cells.x`` is dense, so ask it of a minibatch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np
import pyro
import torch
from scipy import sparse
from torch import Tensor

from pyroscvi.data.csr import CSR, few
from pyroscvi.data.graph import neighbourhood
from pyroscvi.data.loader import minibatches
from pyroscvi.data.stored import Stored

if TYPE_CHECKING:
    from pyroscvi.data.fields import Fields

__all__ = ["Cells", "Dims"]

Counts: TypeAlias = Tensor | sparse.csr_matrix | Stored
Rows: TypeAlias = Tensor | np.ndarray | Sequence[int] | slice


CPU = torch.device("cpu")


@dataclass(frozen=True)
class Dims:
    """What a model must know of the data before it can own parameters.

    genes       number of genes
    levels      number of levels of each categorical field: {"batch": 2}
    covariates  number of continuous covariates
    profile     share of every gene in all counts, smoothed by one count                      [g]
    log_size    mean and variance of the log total count, by batch (one row where there is none)   [b, 2]
    """

    genes: int
    levels: Mapping[str, int] = field(default_factory=dict)
    covariates: int = 0
    profile: Tensor | None = field(default=None, repr=False)
    log_size: Tensor | None = field(default=None, repr=False)

    def count(self, name: str) -> int:
        """Levels of a categorical field; 1 where cells are not told apart by ``batch`` or ``label``."""
        if name not in self.levels and name not in ("batch", "label"):
            raise KeyError(
                f"no categorical field {name!r} was read; there are {sorted(self.levels)}: name it in Fields(...)"
            )
        return self.levels.get(name, 1)


@dataclass(frozen=True, eq=False)
class Cells:
    """A minibatch of cells, or all of them.

    counts       counts: dense, CSR, or on disk                                          [n, g]
    categories   codes by field, -1 where unknown: {"batch": [n], "label": [n]}
    covariates   continuous covariates                                                   [n, c]
    belief       what is believed of a cell's label: weights, all ones where nothing is   [n, y]
    size_factor  sizes that do not come from these counts                                 [n]
    graph        neighbours: entry (target, source) is their distance                     [n + h, n + h]
    halo         the neighbours that are not among these cells, nodes n .. n + h of the graph
    index        row of each cell in the whole data set                                   [n]
    total        number of cells in the whole data set
    levels       the names behind the codes: {"batch": ("a", "b")}
    genes        names of genes
    names        names of cells                                                           [n]
    hops         rounds of message passing into these cells that the graph carries; None: any number
    fields       the fields that these cells were read through: ``cells.fields.read(query)`` reads others the same way
    """

    counts: Counts
    categories: Mapping[str, Tensor] = field(default_factory=dict)
    covariates: Tensor | None = None
    belief: Tensor | None = None
    size_factor: Tensor | None = None
    graph: sparse.csr_matrix | None = None
    halo: "Cells | None" = None
    index: Tensor | None = None
    total: int | None = None
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    genes: tuple[str, ...] | None = None
    names: np.ndarray | None = None
    hops: int | None = None
    fields: "Fields | None" = field(default=None, repr=False)
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU

    def __post_init__(self) -> None:
        """Give names to levels that came without, so that a minibatch knows of levels that none of its cells has."""
        unnamed = {name: int(codes.max()) + 1 for name, codes in self.categories.items() if name not in self.levels}
        if self.belief is not None and "label" not in self.levels:
            unnamed["label"] = self.belief.shape[-1]
        named = {name: tuple(map(str, range(count))) for name, count in unnamed.items()}
        object.__setattr__(self, "levels", {**self.levels, **named})

    def __len__(self) -> int:
        return self.counts.shape[0]

    def __repr__(self) -> str:
        told = "".join(f", {name}: {len(levels)}" for name, levels in self.levels.items())
        return f"Cells({len(self):,} cells, {self.counts.shape[1]:,} genes{told})"

    # What models and guides look at

    @cached_property
    def x(self) -> Tensor:
        """Counts [n, g], dense."""
        counts = self.counts.read() if isinstance(self.counts, Stored) else self.counts
        dense = counts if isinstance(counts, Tensor) else torch.from_numpy(counts.toarray())
        return dense.to(self.device, self.dtype)

    @cached_property
    def csr(self) -> CSR | None:
        """Counts as they are stored, where a product with them is quicker so: sparse, few, float32 on a processor."""
        if not sparse.issparse(self.counts) or self.device.type != "cpu" or self.dtype != torch.float32:
            return None
        return CSR.of(self.counts) if few(self.counts) else None

    @cached_property
    def library(self) -> Tensor:
        """Counts per cell [n, 1]."""
        return _totals(self.counts, 1).unsqueeze(-1).to(self.device, self.dtype)

    @property
    def batch(self) -> Tensor | None:
        return self.categories.get("batch")

    @property
    def label(self) -> Tensor | None:
        return self.categories.get("label")

    def said(self, types: int) -> Tensor:
        """What annotators said of every cell: one-hot where they chose a type, ones where they said nothing [n, y]."""
        if self.belief is not None:
            return self.belief
        said = torch.ones(len(self), types, dtype=self.dtype, device=self.device)
        if self.label is not None:
            chosen = torch.nn.functional.one_hot(self.label.clamp(min=0), types).to(said)
            said = torch.where((self.label >= 0).unsqueeze(-1), chosen, said)
        return said

    @cached_property
    def edges(self) -> Tensor:
        """Source and target of every edge [2, e]; rows past n are the halo."""
        if self.graph is None:
            return torch.empty(2, 0, dtype=torch.long, device=self.device)
        target, source = self.graph.tocoo().coords
        return torch.as_tensor(np.stack([source, target]).astype(np.int64), device=self.device)

    @cached_property
    def distances(self) -> Tensor:
        """Length of every edge [e], in units of the typical distance between neighbours."""
        lengths = np.zeros(0) if self.graph is None else self.graph.data
        return torch.as_tensor(lengths).to(self.device, self.dtype)

    def with_halo(self) -> "Cells":
        """These cells and then their halo, as one data set of n + h cells without a graph."""
        return self._everyone

    @cached_property
    def _everyone(self) -> "Cells":
        alone = replace(self, graph=None, halo=None, hops=None)
        return alone if self.halo is None else _stacked(alone, self.halo)

    @cached_property
    def dims(self) -> Dims:
        return _survey(self)

    def plate(self) -> pyro.plate:
        """The plate over cells; its scale makes a minibatch stand for the whole data set."""
        total = len(self) if self.total is None else self.total
        index = torch.arange(len(self)) if self.index is None else self.index
        return pyro.plate("cells", total, subsample=index.to(self.device), dim=-1)

    # What loaders do

    def take(self, index: Rows, hops: int | None = 1) -> Self:
        """The minibatch of these rows; with a graph, their neighbours ``hops`` away come along as the halo.

        Rows are numbers, in any order, or a mask; ``hops=None`` brings everything along that can be reached. Counts on
        disk are read.
        """
        index = torch.arange(len(self))[index]
        rows = _rows(self, index)
        near = {} if self.graph is None else _halo(self, index.numpy(), hops)
        whole = index if self.index is None else self.index[index]
        total = len(self) if self.total is None else self.total
        counts = rows["counts"]
        counts = counts.read() if isinstance(counts, Stored) else counts
        taken = replace(self, **{**rows, **near, "counts": counts, "index": whole, "total": total})
        if "library" in vars(self):
            vars(taken)["library"] = self.library[index.to(self.device)]
        return taken

    def subset(self, index: Rows, hops: int | None = None) -> Self:
        """These rows as a data set of their own; with a graph, its halo is everything that can be reached.

        Counts on disk stay there, unless a buffer holds these: 16,384 cells, or fewer of cells with many genes.
        """
        index = torch.arange(len(self))[index]
        if isinstance(self.counts, Stored) and len(index) > self.counts.buffer:
            return replace(self, **_rows(self, index), index=None, total=None)
        return replace(self.take(index, hops), index=None, total=None)

    def minibatches(
        self, size: int, generator: torch.Generator | None = None, hops: int | None = 1, start: int = 0
    ) -> Iterator[Self]:
        """One pass over the cells, each exactly once, in the generator's order; without one, as they stand.

        ``start`` goes on from that minibatch of the pass, in which all before it are skipped without being read.
        """
        if size < 1:
            raise ValueError(f"a minibatch has at least one cell, not {size}")
        return minibatches(self, size, generator, hops, start)

    def split(self, fraction: float, by: str | None = None, seed: int = 0) -> tuple[Self, Self]:
        """Two data sets, the second with ``fraction`` of the cells, of each level of the field ``by`` if one is named.

        With a graph the first keeps the edges among its own cells; the second may look at all its neighbours, because
        they only help its guide to read it: they do not enter the probability of its counts.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must lie between 0 and 1, not {fraction}")
        if by is not None and by not in self.categories:
            raise KeyError(f"cells have no categorical field {by!r} to split by; there are {sorted(self.categories)}")
        group = torch.zeros(len(self), dtype=torch.long) if by is None else self.categories[by].cpu()
        held = _stratified(group, fraction, torch.Generator().manual_seed(seed))
        if held.all() or not held.any():
            raise ValueError(f"splitting off {fraction} of {len(self)} cells leaves one side empty")
        first = replace(self, graph=None, halo=None).subset(~held)
        if self.graph is not None:
            own = (~held).nonzero().squeeze(-1).numpy()
            first = replace(first, graph=sparse.csr_matrix(self.graph[own][:, own]), hops=None)
        return first, self.subset(held)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same cells, seen on another device or in another precision; sparse counts stay where they are."""
        device = self.device if device is None else torch.device(device)
        dtype = self.dtype if dtype is None else dtype

        def real(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device, dtype)

        return replace(
            self,
            counts=self.counts.to(device, dtype) if isinstance(self.counts, Tensor) else self.counts,
            halo=None if self.halo is None else self.halo.to(device, dtype),
            categories={name: codes.to(device) for name, codes in self.categories.items()},
            covariates=real(self.covariates),
            belief=real(self.belief),
            size_factor=real(self.size_factor),
            device=device,
            dtype=dtype,
        )


def _rows(cells: Cells, index: Tensor) -> dict:
    """Every field that has one row a cell, at these rows."""

    def at(t: Tensor | None) -> Tensor | None:
        return None if t is None else t[index.to(t.device)]

    counts = cells.counts
    return {
        "counts": at(counts) if isinstance(counts, Tensor) else counts[index.numpy()],
        "categories": {name: at(codes) for name, codes in cells.categories.items()},
        "covariates": at(cells.covariates),
        "belief": at(cells.belief),
        "size_factor": at(cells.size_factor),
        "names": None if cells.names is None else cells.names[index.numpy()],
    }


def _stratified(group: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """A mask [n] with ``fraction`` of every group, to within one; all are equally likely to be in it."""
    n = len(group)
    order = torch.randperm(n, generator=generator)
    order = order[group[order].argsort(stable=True)]
    # Systematic sampling: group after group, in random order within, every (1 / fraction)-th from a random start,
    # which is kept from leaving nothing on either side.
    start = torch.rand((), dtype=torch.float64, generator=generator)
    if n * fraction < 1:
        start = 1 - (1 - start) * n * fraction
    elif n * (1 - fraction) < 1:
        start = start * n * (1 - fraction)
    due = (torch.arange(n + 1, dtype=torch.float64) * fraction + start).floor()
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[order[due.diff() > 0]] = True
    return chosen


def _halo(cells: Cells, index: np.ndarray, hops: int | None) -> dict:
    """The graph of the chosen rows, renumbered: chosen cells first, then the halo that they bring along."""
    assert cells.graph is not None
    graph, outside = neighbourhood(cells.graph, index, hops)
    everyone = cells.with_halo()
    halo = replace(everyone, **_rows(everyone, torch.as_tensor(outside)), index=None, total=None)
    reach = [rounds for rounds in (hops, cells.hops) if rounds is not None]
    return {"graph": graph, "halo": halo, "hops": min(reach, default=None)}


def _stacked(first: Cells, second: Cells) -> Cells:
    """One data set after the other, field by field; both have the same fields."""

    def join(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else torch.cat([a, b])

    a, b = first.counts, second.counts
    stacked = torch.cat([a, b]) if isinstance(a, Tensor) and isinstance(b, Tensor) else sparse.vstack([a, b], "csr")
    return replace(
        first,
        counts=stacked,
        categories={name: torch.cat([codes, second.categories[name]]) for name, codes in first.categories.items()},
        covariates=join(first.covariates, second.covariates),
        belief=join(first.belief, second.belief),
        size_factor=join(first.size_factor, second.size_factor),
        names=None if first.names is None or second.names is None else np.concatenate([first.names, second.names]),
        index=None,
        total=None,
    )


def _totals(counts: Counts, axis: int) -> Tensor:
    """Sums over an axis, in double precision: a float32 stops counting at 2^24."""
    if isinstance(counts, Stored):
        return torch.as_tensor(counts.totals if axis == 1 else counts.genes)
    if isinstance(counts, Tensor):
        there = counts.cpu() if counts.device.type == "mps" else counts  # which knows no double precision
        return there.sum(axis, dtype=torch.float64)
    # Not ``counts.sum(axis, dtype=...)``: scipy adds up in float32 and converts afterwards.
    along = counts if axis == 1 else counts.T
    return torch.as_tensor(along @ np.ones(along.shape[1]))


def _survey(cells: Cells) -> Dims:
    """Sizes and moments of a data set."""
    levels = {name: len(names) for name, names in cells.levels.items()}
    per_gene = _totals(cells.counts, 0).cpu()
    log_total = _totals(cells.counts, 1).cpu().clamp(min=1).log()
    batch = torch.zeros(len(cells), dtype=torch.long) if cells.batch is None else cells.batch.cpu()
    overall = torch.stack([log_total.mean(), log_total.var(correction=0)])
    rows = []
    for level in range(max(levels.get("batch", 1), 1)):
        here = log_total[batch == level]
        rows.append(torch.stack([here.mean(), here.var(correction=0)]) if len(here) else overall)
    return Dims(
        genes=cells.counts.shape[1],
        levels=levels,
        covariates=0 if cells.covariates is None else cells.covariates.shape[-1],
        profile=((per_gene + 1) / (per_gene + 1).sum()).float(),
        log_size=torch.stack(rows).float(),
    )
