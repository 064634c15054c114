"""Cells: the one argument of every model and every guide.

``Fields`` says where things are in an AnnData; ``Cells`` holds what was read from there. Counts stay sparse, or on
disk, until they are used: ``cells.x`` is dense, so use it on a minibatch only.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import pandas as pd
import pyro
import torch
from scipy import sparse
from torch import Tensor

from pyroscvi.advice import either
from pyroscvi.data.csr import CSR, is_sparse_enough
from pyroscvi.data.dims import Dims, survey, totals
from pyroscvi.data.halo import given_others, halo_of
from pyroscvi.data.loader import minibatches
from pyroscvi.data.panels import shares
from pyroscvi.data.rows import BY_CELL, by_cell, picked, stacked
from pyroscvi.data.splits import stratified, whole_groups
from pyroscvi.data.stored import Stored

if TYPE_CHECKING:
    from pyroscvi.data.fields import Fields

Counts: TypeAlias = Tensor | sparse.csr_matrix | Stored
Rows: TypeAlias = Tensor | np.ndarray | Sequence[int] | slice

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Cells:
    """A minibatch of cells, or all of them.

    counts       counts: dense, CSR, or on disk; or other values, if ``real``              [n, g]
    categories   codes by field, -1 where unknown: {"batch": [n], "label": [n]}
    covariates   continuous covariates                                                   [n, c]
    proteins     counts of surface proteins, NaN where not measured                       [n, p]
    belief       weights of the labels of each cell, all ones where nothing is known      [n, y]
    size_factor  sizes that do not come from these counts                                 [n]
    embedding    numbers that another model computed of each cell                         [n, e]
    panels       genes that were measured, a row for each group of cells: True or False    [p, g]
    panel        row of ``panels`` of each cell; None: all genes were measured             [n]
    graph        neighbours: entry (target, source) is their distance                     [n + h, n + h]
    halo         the h neighbours that are not among these cells: nodes n to n + h - 1 of the graph
    places       coordinates, in typical distances from a cell to its nearest one; NaN where unknown [n, 2 or 3]
    before       predecessors of each cell, for the prior ``Field``: entry (cell, predecessor) is 1 [n + h, n + h]
    index        row of each cell in the whole data set                                   [n]
    total        number of cells in the whole data set
    levels       names of the levels, in the order of their codes: {"batch": ("a", "b")}
    genes        names of genes
    protein_names  names of proteins
    names        names of cells                                                           [n]
    real         True if ``counts`` are values that are not counts, such as logarithms
    hops         rounds of message passing into these cells that the graph has edges for; None: any number
    fields       the fields that these cells were read with: ``cells.fields.read(query)`` reads others the same way
    """

    counts: Counts = field(metadata=BY_CELL)
    categories: Mapping[str, Tensor] = field(default_factory=dict, metadata=BY_CELL)
    covariates: Tensor | None = field(default=None, metadata=BY_CELL)
    proteins: Tensor | None = field(default=None, metadata=BY_CELL)
    belief: Tensor | None = field(default=None, metadata=BY_CELL)
    size_factor: Tensor | None = field(default=None, metadata=BY_CELL)
    embedding: Tensor | None = field(default=None, metadata=BY_CELL)
    panels: Tensor | None = None
    panel: Tensor | None = field(default=None, metadata=BY_CELL)
    graph: sparse.csr_matrix | None = None
    halo: "Cells | None" = None
    places: Tensor | None = field(default=None, metadata=BY_CELL)
    before: sparse.csr_matrix | None = None
    index: Tensor | None = field(default=None, metadata=BY_CELL)
    total: int | None = None
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    genes: tuple[str, ...] | None = None
    protein_names: tuple[str, ...] | None = None
    names: np.ndarray | None = field(default=None, metadata=BY_CELL)
    real: bool = False
    hops: int | None = None
    fields: "Fields | None" = field(default=None, repr=False)
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU

    def __post_init__(self) -> None:
        """Name the levels that have no names, so that a minibatch knows also the levels that none of its cells has."""
        unnamed = {name: int(codes.max()) + 1 for name, codes in self.categories.items() if name not in self.levels}
        if self.belief is not None and "label" not in self.levels:
            unnamed["label"] = self.belief.shape[-1]
        named = {name: tuple(map(str, range(count))) for name, count in unnamed.items()}
        object.__setattr__(self, "levels", {**self.levels, **named})

    def __len__(self) -> int:
        return self.counts.shape[0]

    def __repr__(self) -> str:
        levels = "".join(f", {name}: {len(levels)}" for name, levels in self.levels.items())
        panels = "" if self.panels is None else f", gene panels: {len(self.panels)}"
        proteins = "" if self.proteins is None else f", {self.proteins.shape[1]} proteins"
        return f"Cells({len(self):,} cells, {self.counts.shape[1]:,} genes{proteins}{levels}{panels})"

    # For models and guides

    @cached_property
    def x(self) -> Tensor:
        """Counts [n, g], dense."""
        counts = self.counts.read() if isinstance(self.counts, Stored) else self.counts
        dense = counts if isinstance(counts, Tensor) else torch.from_numpy(counts.toarray())
        return dense.to(self.device, self.dtype)

    @cached_property
    def csr(self) -> CSR | None:
        """Counts in sparse rows, if products with them are faster: few counts above zero, float32, on the CPU."""
        if not sparse.issparse(self.counts) or self.device.type != "cpu" or self.dtype != torch.float32:
            return None
        return CSR.of(self.counts) if is_sparse_enough(self.counts) else None

    @cached_property
    def library(self) -> Tensor:
        """Counts per cell [n, 1]."""
        return totals(self.counts, 1).unsqueeze(-1).to(self.device, self.dtype)

    @cached_property
    def measured(self) -> Tensor | None:
        """True for the genes that were measured in each cell [n, g]; None if all were, in every cell of the data set.

        The count of a gene that was not measured is 0, and has no meaning.
        """
        return None if self.panels is None or self.panel is None else self.panels[self.panel]

    def whole_size(self, profile: Tensor) -> Tensor:
        """Counts per cell, divided by the share of the measured genes in a profile [g]: [n, 1]."""
        if self.panels is None or self.panel is None:
            return self.library
        return self.library / shares(self.panels, profile)[self.panel].unsqueeze(-1)

    def filled(self, profile: Tensor) -> Tensor:
        """Counts [n, g], with those of an average cell of the same size for genes that were not measured.

        profile   share of every gene in an average cell [g]
        """
        if self.measured is None:
            return self.x
        profile = profile.to(self.x)
        return torch.where(self.measured, self.x, self.whole_size(profile) * profile)

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """Names of the covariates: the columns that they were read from, or "covariate0" and so on."""
        count = 0 if self.covariates is None else self.covariates.shape[-1]
        columns = () if self.fields is None else self.fields.covariates
        return columns if len(columns) == count else tuple(f"covariate{i}" for i in range(count))

    def covariate(self, name: str) -> Tensor:
        """Values of one covariate [n]."""
        if self.covariates is None or name not in self.covariate_names:
            known = ", ".join(self.covariate_names) or "none"
            named = either("name it in Fields(covariates=...)", "name it with --covariate")
            raise KeyError(f"no covariate {name!r} was read; there are {known}: {named}")
        return self.covariates[:, self.covariate_names.index(name)]

    @property
    def batch(self) -> Tensor | None:
        return self.categories.get("batch")

    @property
    def label(self) -> Tensor | None:
        return self.categories.get("label")

    def label_weights(self, types: int) -> Tensor:
        """Weights of the labels [n, y]: the beliefs, or one-hot where the label is known and ones where it is not.

        Beliefs are scaled so that the largest of a cell is 1: only their ratios have a meaning.
        """
        if self.belief is not None:
            return self.belief / self.belief.amax(-1, keepdim=True)
        weights = torch.ones(len(self), types, dtype=self.dtype, device=self.device)
        if self.label is not None:
            one_hot = torch.nn.functional.one_hot(self.label.clamp(min=0), types).to(weights)
            weights = torch.where((self.label >= 0).unsqueeze(-1), one_hot, weights)
        return weights

    def protein_counts(self, number: int) -> Tensor:
        """Counts of the surface proteins [n, p], NaN where not measured; all NaN if no proteins were read."""
        if self.proteins is not None:
            return self.proteins
        return torch.full((len(self), number), math.nan, dtype=self.dtype, device=self.device)

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

    @cached_property
    def vectors(self) -> Tensor:
        """From the target to the source of every edge [e, 2 or 3], in the unit of ``places``; 0 if one is unknown."""
        places, (source, target) = self.with_halo.places, self.edges
        if places is None:
            raise ValueError("these cells have no coordinates")
        return (places[source] - places[target]).nan_to_num()

    @cached_property
    def neighbour_profile(self) -> Tensor:
        """The share of every gene in the counts of all neighbours of a cell [n, g]; NaN for a cell without any."""
        source, target = self.edges
        pooled = torch.zeros_like(self.with_halo.x).index_add(0, target, self.with_halo.x[source])[: len(self)]
        return pooled / pooled.sum(-1, keepdim=True)

    @cached_property
    def with_halo(self) -> "Cells":
        """These cells and then their halo, as one data set of n + h cells without a graph."""
        alone = replace(self, graph=None, halo=None, before=None, hops=None)
        if self.halo is None:
            return alone
        return replace(alone, **by_cell(stacked, alone, replace(self.halo, index=None)), total=None)

    @cached_property
    def predecessors(self) -> Tensor:
        """The predecessors of every cell, as nodes of the graph; -1 where there are fewer than m [n, m]."""
        if self.before is None:
            return torch.empty(len(self), 0, dtype=torch.long, device=self.device)
        rows = self.before[: len(self)]
        many = np.diff(rows.indptr)
        place = np.full((len(self), max(many.max(initial=0), 0)), -1, dtype=np.int64)
        place[np.arange(place.shape[1]) < many[:, None]] = rows.indices
        return torch.from_numpy(place).to(self.device)

    @cached_property
    def with_predecessors(self) -> "Cells":
        """These cells and then their predecessors in the halo, as one data set: the first nodes of the graph."""
        alone = replace(self, before=None, index=None, total=None)
        more = 0 if self.before is None else int(self.before.indices.max(initial=-1)) + 1 - len(self)
        if self.halo is None or more <= 0:
            return alone
        first, rest = (self.halo.take(rows) for rows in (slice(more), slice(more, None)))
        rows = by_cell(stacked, alone, replace(first, index=None))
        return replace(alone, **rows, halo=replace(rest, index=None, total=None), total=None)

    @cached_property
    def dims(self) -> Dims:
        return survey(self)

    def plate(self) -> pyro.plate:
        """The plate over cells; its scale makes a minibatch stand for the whole data set."""
        total = len(self) if self.total is None else self.total
        index = torch.arange(len(self)) if self.index is None else self.index
        return pyro.plate("cells", total, subsample=index.to(self.device), dim=-1)

    # For loaders

    def take(self, index: Rows, hops: int | None = 1) -> Self:
        """The minibatch of these rows; with a graph, neighbours up to ``hops`` edges away are its halo.

        Rows are numbers, in any order, or a mask; with ``hops=None`` the halo is every cell that can be reached. It
        begins with the predecessors of these cells, if they have any. Counts on disk are read.
        """
        index = self._numbers(index)
        rows = picked(self, index)
        if rows["index"] is None:
            rows["index"] = index
        if isinstance(rows["counts"], Stored):
            rows["counts"] = rows["counts"].read()
        graph = {} if self.graph is None else halo_of(self, index.numpy(), hops)
        taken = replace(self, **rows, **graph, total=len(self) if self.total is None else self.total)
        if "library" in vars(self):
            vars(taken)["library"] = self.library[index.to(self.device)]
        return taken

    def subset(self, index: Rows, hops: int | None = None) -> Self:
        """These rows as a data set of their own; with a graph, its halo is every cell that can be reached.

        Counts on disk stay there if they are more than one buffer: 16,384 cells, or fewer if cells have many genes.
        """
        index = self._numbers(index)
        if isinstance(self.counts, Stored) and len(index) > self.counts.buffer:
            graph = {} if self.graph is None else halo_of(self, index.numpy(), hops)
            return replace(self, **{**picked(self, index), "index": None}, **graph, total=None)
        return replace(self.take(index, hops), index=None, total=None)

    def in_order(self) -> Self:
        """These cells with only those neighbours that are predecessors, so that no cell reads one that comes later."""
        if self.graph is None or self.before is None:
            return self
        return replace(self, graph=sparse.csr_matrix(self.graph.multiply(self.before != 0)))

    def check_hops(self, hops: int, reader: Any) -> None:
        """ValueError if these cells have neighbours fewer hops away than ``reader``, named in the error, reads."""
        if self.hops is not None and self.hops < hops:
            raise ValueError(
                f"these cells have neighbours up to {self.hops} hops away, but {reader} reads {hops} hops: "
                f"use cells.take(rows, hops={hops})"
            )

    def _numbers(self, rows: Rows) -> Tensor:
        """The numbers of these rows, on the processor, where the rows of every field are looked up."""
        return torch.arange(len(self))[rows.cpu() if isinstance(rows, Tensor) else rows]

    def minibatches(
        self, size: int, generator: torch.Generator | None = None, hops: int | None = 1, start: int = 0,
        rank: int = 0, world: int = 1,
    ) -> Iterator[Self]:  # fmt: skip
        """One pass over the cells, each exactly once, in random order; without a generator, in their own order.

        The pass begins at minibatch ``start``: those before it are skipped without being read. Of ``world`` processes
        with the same generator, each gets every ``world``-th cell of every minibatch, from cell ``rank`` on.
        """
        if size < 1:
            raise ValueError(f"a minibatch has at least one cell, not {size}")
        return minibatches(self, size, generator, hops, start, rank, world)

    def split(
        self, fraction: float, by: str | None = None, seed: int = 0, *, groups: str | Sequence[Any] | None = None,
        hops: int | None = None,
    ) -> tuple[Self, Self]:  # fmt: skip
        """Two data sets, the second with ``fraction`` of the cells; of each level of the field ``by``, if it is named.

        groups  a categorical field, or a value for each cell [n]: the cells of a group stay together, so that
                ``groups="donor"`` leaves no donor on both sides. The second has then about ``fraction`` of the cells
                and at least one group

        hops    of neighbours that the second has as a halo; None: every cell that can be reached

        With a graph, the first keeps the edges among its own cells. The second keeps all its neighbours: a guide may
        read them, and under a page such as ``Spillover`` they are given. With predecessors this is different: a cell of
        the second has the nearest cells of the first before it, and no cell of the first reads its counts.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"{either('fraction', '--held-out')} must lie between 0 and 1, not {fraction}")
        if by is not None and groups is not None:
            raise ValueError("levels are on both sides (by=) or on one (groups=): give one of the two")
        choose = stratified if groups is None else whole_groups
        held = choose(self._grouped(by if groups is None else groups), fraction, torch.Generator().manual_seed(seed))
        if held.all() or not held.any():
            raise ValueError(f"splitting off {fraction} of {len(self)} cells leaves one side empty")
        first = replace(self, graph=None, halo=None, before=None).subset(~held)
        own = (~held).nonzero().squeeze(-1).numpy()
        if self.graph is not None:
            first = replace(first, graph=sparse.csr_matrix(self.graph[own][:, own]), hops=None)
        if self.before is None:
            return first, self.subset(held, hops)
        first = replace(first, before=sparse.csr_matrix(self.before[own][:, own]))
        return first, given_others(self, held.numpy()).subset(held, hops)

    def _grouped(self, by: str | Sequence[Any] | None) -> Tensor:
        """The group of each cell [n]: its level of a field, or its value; one group without either."""
        if by is None:
            return torch.zeros(len(self), dtype=torch.long)
        if not isinstance(by, str):
            codes = pd.factorize(np.asarray(by, dtype=object))[0]
            if len(codes) != len(self) or (codes < 0).any():
                raise ValueError(f"to split {len(self):,} cells, each needs a value: there are {(codes >= 0).sum():,}")
            return torch.from_numpy(codes)
        if by not in self.categories:
            raise KeyError(f"cells have no categorical field {by!r} to split by; there are {sorted(self.categories)}")
        return self.categories[by].cpu()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same cells, seen on another device or in another precision.

        Sparse counts stay sparse and where they are, except that a GPU holds them, dense, if they take at most a
        quarter of its free memory: otherwise each minibatch waits for its copy. Counts on disk stay there.
        """
        device = self.device if device is None else torch.device(device)
        dtype = self.dtype if dtype is None else dtype

        def move(rows: Any) -> Any:
            if not isinstance(rows, Tensor):
                return rows
            return rows.to(device, dtype if rows.is_floating_point() else None)

        halo = None if self.halo is None else self.halo.to(device, dtype)
        rows = by_cell(move, self) | {"panels": move(self.panels)}
        if isinstance(self.counts, Tensor):  # of whole numbers, too
            rows["counts"] = self.counts.to(device, dtype)
        elif not isinstance(self.counts, Stored) and _has_room(device, self.counts.shape, dtype):
            rows["counts"] = torch.from_numpy(self.counts.toarray()).to(device, dtype)
        return replace(self, **{**rows, "index": self.index}, halo=halo, device=device, dtype=dtype)


def _has_room(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Whether a dense matrix takes at most a quarter of the free memory of this device, which is a GPU."""
    return device.type == "cuda" and 4 * math.prod(shape) * dtype.itemsize <= torch.cuda.mem_get_info(device)[0]
