"""Fields: where the counts of cells, and what is known about them, lie in an AnnData."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self, get_args

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor

from pyroscvi import advice
from pyroscvi.data.cells import Cells
from pyroscvi.data.checks import check_cells, check_genes, check_numbers, counts_of, precision, values_of
from pyroscvi.data.columns import codes, column, floats_of, sizes_of, standardised, table, weights
from pyroscvi.data.edges import Given, Graph, Nearest, declared, fields_of
from pyroscvi.data.files import Data, Opened, opened
from pyroscvi.data.genes import match, numbered, unique_cells
from pyroscvi.data.matrices import Matrix
from pyroscvi.data.merge import merged, outlined
from pyroscvi.data.panels import panels_of
from pyroscvi.data.proteins import read_proteins
from pyroscvi.data.stored import Stored
from pyroscvi.data.survey import end_to_end, surveyed
from pyroscvi.data.tissue import Tissue, tissue
from pyroscvi.names import listed

Levels = Mapping[str, tuple[str, ...]]
Join = Literal["intersection", "union"]
Missing = Literal["error", "marginalise", "zero"]


@dataclass(frozen=True)
class Fields:
    """Where the counts of cells, and what is known about them, lie in an AnnData.

        cells = Fields(counts="counts", batch="donor", label="cell_type").read(adata)
        query = cells.fields.read(other)        # the same genes, levels and moments

    counts       a layer; None is X
    values       a layer with real numbers in place of counts, such as logarithms, for ``likelihood=Normal()``; "X" is X
    batch        column of obs: the batch that a model corrects for
    label        column of obs: the type of a cell, where it is known
    unlabelled   a label that means "not known", in addition to missing values
    categories   columns of obs: other categories that a model may be conditioned on
    covariates   columns of obs: continuous; standardised
    size_factor  column of obs: sizes that do not come from these counts, positive
    belief       key of obsm: a weight for each label, one column each; a row of NaN means that nothing is known
    logits       True: the columns of belief are logits, and their softmax are the weights
    proteins     key of obsm: counts of surface proteins, a DataFrame or an array; NaN where a protein was not measured
    protein_names  names of the proteins to read; None reads all columns of a DataFrame, and numbers those of an array
    embedding    key of obsm: numbers by another model for each cell, which the encoder ``ReadEmbedding`` reads
    spatial      key of obsm: two or three coordinates, of which a graph of neighbours is made; a cell whose row is NaN
                 has no coordinates, and so no neighbours
    section      column of obs: cells of different sections are never neighbours
    graph        which cells are neighbours: ``Nearest(6)``, ``Radius(50.0)``, ``Delaunay()``; or ``Given()``, which
                 reads the graph that obsp has
    predecessors  how many cells the prior ``Field`` makes a cell depend on; 0 if no model has this prior
    genes        names of the genes to read, in their order; None reads all

    ``cells.fields`` are these fields and what reading has added: ``genes``, ``protein_names``, ``levels`` (names of the
    levels of every category), ``moments`` (mean and sd of every covariate), ``unit`` (typical distance from a cell to
    its nearest one) and ``panels`` (for each group of cells in which not all genes were measured, the numbers of those
    that were). They are plain data: ``to_dict`` and ``from_dict`` go through JSON.
    """

    counts: str | None = None
    values: str | None = None
    batch: str | None = None
    label: str | None = None
    categories: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    size_factor: str | None = None
    belief: str | None = None
    logits: bool = False
    embedding: str | None = None
    proteins: str | None = None
    protein_names: tuple[str, ...] | None = None
    spatial: str | None = None
    section: str | None = None
    graph: Graph = field(default_factory=Nearest)
    predecessors: int = 0
    unlabelled: str | None = None
    genes: tuple[str, ...] | None = field(default=None, repr=False)
    chosen: bool | None = field(default=None, repr=False)  # the user named the genes: no warning about other genes
    levels: Levels | None = field(default=None, repr=False)
    moments: Mapping[str, tuple[float, float]] | None = field(default=None, repr=False)
    unit: float | None = field(default=None, repr=False)
    panels: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        def names(several: Any) -> tuple[str, ...]:
            return (several,) if isinstance(several, str) else tuple(map(str, several))

        def tuples(table: Mapping[str, Any] | None) -> dict | None:
            return None if table is None else {name: tuple(values) for name, values in table.items()}

        canonical = {
            "categories": names(self.categories),
            "covariates": names(self.covariates),
            "genes": None if self.genes is None else names(self.genes),
            "protein_names": None if self.protein_names is None else names(self.protein_names),
            "chosen": self.genes is not None if self.chosen is None else self.chosen,
            "levels": tuples(self.levels),
            "moments": tuples(self.moments),
            "panels": tuple(map(tuple, self.panels)),
            "graph": declared(self.graph),
        }
        for name, value in canonical.items():
            object.__setattr__(self, name, value)
        if self.counts is not None and self.values is not None:
            raise ValueError(f"name counts or values, not both: counts={self.counts!r}, values={self.values!r}")
        if self.genes is not None and len(set(self.genes)) < len(self.genes):
            raise ValueError(f"genes name {listed(pd.Index(self.genes)[pd.Index(self.genes).duplicated()])} twice")
        if clash := {"batch", "label"} & set(self.categories):
            raise ValueError(f"categories hold {listed(sorted(clash))}: write batch=... or label=... instead")

    def read(
        self, adata: AnnData | Sequence[AnnData] | Mapping[str, AnnData], *, genes: Join = "intersection",
        missing: Missing = "error", unknown: Literal["error", "allow"] = "error",
        empty: Literal["error", "drop"] = "error",
    ) -> Cells:  # fmt: skip
        """The cells of an AnnData, or of several of them one after the other; every count is looked at.

        genes    of several AnnData: the genes that all have, or those that any has. Those that one of them lacks were
                 not measured in its cells, and are left out of their probability
        missing  "marginalise" lets genes be missing that the first data had: they were not measured, and are left out
                 in the same way. "zero" counts them as zero, and so those that some of several AnnData lack
        unknown  "allow" reads levels that the first data did not have, and missing values, as unknown (-1)
        empty    "drop" leaves out cells without counts, with a warning that lists them

        Counts are copied; sparse counts stay sparse. Values that are not counts, unknown levels, missing genes and
        whatever else cannot be trained on raise a ``ValueError`` (``TypeError`` for a column of the wrong kind,
        ``KeyError`` for a name that does not exist), which says what is wrong, where, and what to do. There is a
        ``UserWarning`` about genes without counts, genes that had to be matched (extra, in another order, repeated),
        and repeated names of cells, which are numbered ("C", "C-1").
        """
        _check_options(genes, missing, unknown, empty)
        joined = adata if isinstance(adata, AnnData) else merged(adata, self, genes)
        _refuse_empty(joined)
        names, picked = self._matched(joined, "union" if joined is adata else genes, missing)
        several = (
            [adata] if isinstance(adata, AnnData) else list(adata.values() if isinstance(adata, Mapping) else adata)
        )
        panels = None if missing == "zero" else _panels(several, names, picked)
        return self._cells(joined, self.matrix(joined, picked, names), names, panels, unknown, empty)

    def matrix(self, adata: AnnData, columns: np.ndarray, genes: Sequence[str]) -> Matrix:
        """The counts or values of these columns, in memory, each of them checked."""
        read = counts_of if self.values is None else values_of
        return read(adata, self.layer, columns, genes)

    @property
    def layer(self) -> str | None:
        """The layer of the counts or values; None is X."""
        return None if self.values == "X" else self.values or self.counts

    def open(
        self, data: Data, *, genes: Join = "intersection", missing: Missing = "error",
        unknown: Literal["error", "allow"] = "error", empty: Literal["error", "drop"] = "error",
    ) -> Cells:  # fmt: skip
        """The same cells with their counts left on disk, for files that are larger than memory.

            cells = Fields(batch="donor").open("atlas.h5ad")      # or .zarr, or a folder of files
            fit(model, guide, cells)

        data     a path, an AnnData that is backed by a file, or a list or dict of them: ``pyroscvi.data.files.opened``
                 lists the kinds of files and folders

        Options and errors are those of ``read``. One pass looks at every count; from then on cells are read in blocks
        when they are needed, and only obs is in memory. ``fit`` and every method of a ``Fit`` take these cells as they
        take others. If no file has a column for the batch, every file is a batch of its own.
        """
        _check_options(genes, missing, unknown, empty)
        if self.values is not None:
            raise ValueError("values that are not counts are read into memory: Fields.read")
        if isinstance(self.graph, Given):
            raise ValueError("cells with a graph in obsp are read into memory: Fields.read, or make it of coordinates")
        files = opened(data)
        if isinstance(files, Opened):
            adata, files, genes = files.in_memory, {"": files}, "union"
        else:
            adata = outlined({key: file.in_memory for key, file in files.items()}, self, genes, missing)
        _refuse_empty(adata)
        names, picked = self._matched(adata, genes, missing)
        panels = None if missing == "zero" else _panels([one.in_memory for one in files.values()], names, picked)
        counts = []
        for key, file in files.items():
            places = numbered(file.in_memory.var_names)[0].get_indexer(pd.Index(names))
            columns = np.where(places >= 0, file.columns[places], -1)
            counts.append(surveyed(file, self.counts, columns, names, key))
        return self._cells(adata, end_to_end(counts), names, panels, unknown, empty)

    def _matched(self, adata: AnnData, genes: Join, missing: str) -> tuple[tuple[str, ...], np.ndarray]:
        """The genes to read, and their columns: ``match``. If they are those of a known panel, no gene is missing."""
        if missing == "error" and genes == "union" and self.genes is not None:
            own = np.flatnonzero(pd.Index(self.genes).isin(numbered(adata.var_names)[0]))
            missing = "known" if tuple(own.tolist()) in self.panels else missing
        return match(adata.var_names, self.genes, missing, extra=not self.chosen)

    def _cells(
        self, adata: AnnData, counts: Matrix | Stored, names: tuple[str, ...], panels: tuple[Tensor, Tensor] | None,
        unknown: str, empty: str,
    ) -> Cells:  # fmt: skip
        cell_names = unique_cells(adata.obs_names)
        real = self.values is not None
        filled = np.ones(len(cell_names), dtype=bool) if real else check_cells(counts, cell_names, empty)
        measured, panel = (None, None) if panels is None else panels
        if not filled.all():
            adata, counts, cell_names = adata[filled], counts[filled], cell_names[filled]
            panel = None if panel is None else panel[torch.from_numpy(filled)]
        if self.levels is None and not real:  # new cells need not have counts of every gene of the model
            check_genes(counts, names)
        exact = np.float32 if real else precision(counts)
        counts = counts.astype(exact, copy=False)
        dtype = torch.float32 if exact is np.float32 else torch.float64

        belief, labels = self._belief(adata, unknown)
        categories, levels = self._categories(adata.obs, labels, unknown)
        known = self.panels
        if self.levels is None and measured is not None:
            known = tuple(tuple(row.nonzero().flatten().tolist()) for row in measured if not row.all())
        covariates, moments = self._covariates(adata.obs)
        proteins, protein_names = read_proteins(adata, self.proteins, self.protein_names)
        read, graph = self._tissue(adata)
        places = None if read is None else torch.from_numpy(read.places).to(dtype)
        cells = Cells(
            torch.from_numpy(counts) if isinstance(counts, np.ndarray) else counts,
            categories={name: torch.from_numpy(code) for name, code in categories.items()},
            covariates=None if covariates is None else torch.from_numpy(covariates).to(dtype),
            proteins=None if proteins is None else torch.from_numpy(proteins).to(dtype),
            size_factor=self._sizes(adata.obs, dtype),
            embedding=self._embedding(adata, dtype),
            panels=measured,
            panel=panel,
            graph=graph,
            places=places,
            before=None if read is None else read.before,
            levels=levels,
            real=real,
            genes=names,
            protein_names=protein_names,
            names=cell_names.to_numpy(dtype=object),
            fields=replace(
                self,
                genes=names,
                protein_names=protein_names,
                levels=levels,
                moments=moments,
                panels=known,
                unit=None if read is None else read.unit,
            ),
            dtype=dtype,
        )
        if belief is None:
            return cells
        weights = torch.from_numpy(belief).to(dtype)
        return replace(cells, belief=torch.where(weights.isnan(), cells.label_weights(weights.shape[1]), weights))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self) | {"graph": {type(self.graph).__name__: fields_of(self.graph)}}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Self:
        """The fields that ``to_dict`` returned, whether they went through JSON or not."""
        return cls(**table)

    def columns(self) -> tuple[str, ...]:
        """Every column of obs that is named."""
        names = self.batch, self.label, self.section, *self.categories, *self.covariates, self.size_factor
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def _categories(self, obs: pd.DataFrame, labels: tuple[str, ...] | None, unknown: str) -> tuple[dict, dict]:
        """Codes and levels by field."""
        known = dict(self.levels or {})
        if labels is not None:
            known["label"] = labels
        categories, levels = {}, dict(known)
        columns = {"batch": self.batch, "label": self.label} | {name: name for name in self.categories}
        for name, key in columns.items():
            if key is None:
                continue
            is_label = name == "label"
            if key not in obs and name in known and (is_label or unknown == "allow"):
                categories[name] = np.full(len(obs), -1)
                continue
            values = column(obs, key, name)
            if is_label and self.unlabelled is not None:
                values = values.mask(values.astype(str) == self.unlabelled)
            role = f"{name} (obs[{key!r}])"
            if is_label and labels is not None and self.levels is None and unknown != "allow":
                self._refuse_labels(values, role, labels)
            categories[name], levels[name] = codes(values, role, known.get(name), unknown, missing=is_label)
        return categories, levels

    def _refuse_labels(self, values: pd.Series, role: str, labels: tuple[str, ...]) -> None:
        """ValueError if a column has labels for which belief has no column."""
        own = codes(values, role, None, "allow", missing=True)[1] if values.notna().any() else ()
        if unmatched := [label for label in own if label not in labels]:
            raise ValueError(
                f"{role} has labels for which belief (obsm[{self.belief!r}]) has no column: {listed(unmatched)}. Its "
                f"columns are {listed(labels)}. Give belief as a DataFrame with a column for each label"
            )

    def _belief(self, adata: AnnData, unknown: str) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
        """Weights over labels, and the labels' names in the order of the columns."""
        known = (self.levels or {}).get("label")
        if self.belief is None or (self.belief not in adata.obsm and known is not None):
            return None, None
        values = table(adata, self.belief, "belief")
        return weights(values, adata.obs_names, f"belief (obsm[{self.belief!r}])", known, unknown, self.logits)

    def _covariates(self, obs: pd.DataFrame) -> tuple[np.ndarray | None, dict[str, tuple[float, float]]]:
        scaled, moments = [], {}
        for name in self.covariates:
            values, known = column(obs, name, "covariate"), (self.moments or {}).get(name)
            floats, moments[name] = standardised(values, f"covariate {name!r}", known)
            scaled.append(floats)
        return (np.stack(scaled, 1) if scaled else None), moments

    def _embedding(self, adata: AnnData, dtype: torch.dtype) -> Tensor | None:
        if self.embedding is None:
            return None
        role = f"embedding (obsm[{self.embedding!r}])"
        floats = floats_of(table(adata, self.embedding, "embedding"), role)
        check_numbers(floats, adata.obs_names, role, "finite", np.isfinite(floats))
        return torch.from_numpy(floats).to(dtype)

    def _sizes(self, obs: pd.DataFrame, dtype: torch.dtype) -> Tensor | None:
        if self.size_factor is None:
            return None
        values = column(obs, self.size_factor, "size factor")
        return torch.from_numpy(sizes_of(values, f"size factor {self.size_factor!r}")).to(dtype)

    def _tissue(self, adata: AnnData) -> tuple[Tissue | None, sparse.csr_matrix | None]:
        """The places of cells, and their graph."""
        section = None if self.section is None else column(adata.obs, self.section, "section")
        read, graph = None, None
        if self.spatial is not None:
            values, role = table(adata, self.spatial, "coordinates"), f"coordinates (obsm[{self.spatial!r}])"
            read = tissue(values, self.graph, self.predecessors, section, adata.obs, role, self.unit)
            graph = read.graph
        elif self.predecessors:
            raise ValueError(
                f"predecessors are found by coordinates: name their key of obsm, {advice.field('spatial')}"
            )
        if isinstance(self.graph, Given):
            role = f"section (obs[{self.section!r}])"
            graph = self.graph.read(adata, None if section is None else codes(section, role, optional=False)[0])
        return read, graph


def _panels(several: Sequence[AnnData], names: tuple[str, ...], picked: np.ndarray) -> tuple[Tensor, Tensor] | None:
    """Which of these genes were measured in each of several data sets, and the panel of every cell: ``panels_of``."""
    genes = pd.Index(names)
    measured = [genes.isin(numbered(adata.var_names)[0]) & (picked >= 0) for adata in several]
    return panels_of(measured, [adata.n_obs for adata in several])


def _refuse_empty(adata: AnnData) -> None:
    if not adata.n_obs or not adata.n_vars:
        raise ValueError(f"nothing to read: {adata.n_obs:,} cells and {adata.n_vars:,} genes")


def _check_options(genes: str, missing: str, unknown: str, empty: str) -> None:
    if genes not in ("intersection", "union"):
        raise ValueError(f"genes of several data sets are their 'intersection' or their 'union', not {genes!r}")
    allowed = {"missing": (get_args(Missing), missing), "unknown": (("error", "allow"), unknown)}
    for name, (values, given) in {**allowed, "empty": (("error", "drop"), empty)}.items():
        if given not in values:
            raise ValueError(f"{name} is {' or '.join(map(repr, values))}, not {given!r}")
