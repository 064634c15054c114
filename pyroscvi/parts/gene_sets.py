"""Which genes each factor of a linear decoder reads: all of them, or those of a gene set."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from pyroscvi.data.cells import Dims
from pyroscvi.names import listed
from pyroscvi.part import Part

__all__ = ["AllGenes", "Factors", "GeneSets"]

Sets = tuple[tuple[str, tuple[str, ...]], ...]


class Factors(Part):
    """A slot: which genes the dimensions of the latent space may have an effect on."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the first dimensions."""
        return ()

    def mask(self, dims: Dims, latent: int) -> Tensor | None:
        """1 where gene g may depend on dimension j, otherwise 0 [g, latent]; None if every gene may on all."""
        raise NotImplementedError


class AllGenes(Factors):
    """Every dimension has an effect on every gene."""

    def mask(self, dims, latent):
        return None


class GeneSets(Factors):
    """Dimension j has an effect on the genes of set j only; dimensions without a set have one on every gene.

        GeneSets({"interferon": ["IFI6", "ISG15"], "cytotoxic": ["GNLY", "NKG7"]})
        GeneSets.from_varm(adata, "programs")        # a column for each set, with entries that are not 0

    Genes are matched by name. Those of a set that the data do not have are left out of it.
    """

    sets: Mapping[str, Sequence[str]] | Sets = ()

    def __post_init__(self):
        pairs = self.sets.items() if isinstance(self.sets, Mapping) else self.sets
        if any(isinstance(genes, str) for _, genes in pairs):
            raise TypeError("GeneSets: the genes of a set are a list of names, not one text")
        self.sets = tuple((str(name), tuple(map(str, genes))) for name, genes in pairs)
        if not self.sets:
            raise ValueError('GeneSets: give at least one set, GeneSets({"name": ["gene1", "gene2"]})')
        super().__post_init__()

    @classmethod
    def from_varm(cls, adata: AnnData, key: str) -> Self:
        """The sets in a table of varm, genes x sets."""
        if key not in adata.varm:
            raise KeyError(f"varm has no {key!r} (gene sets); it has {listed(adata.varm) or 'nothing'}")
        values: Any = adata.varm[key]
        table = values if isinstance(values, pd.DataFrame) else pd.DataFrame(np.asarray(values), adata.var_names)
        return cls({str(name): table.index[table[name] != 0].tolist() for name in table})

    @property
    def _pairs(self) -> Sets:
        return self.sets  # type: ignore[return-value]  # __post_init__ made it so

    @property
    def names(self):
        return tuple(name for name, _ in self._pairs)

    def mask(self, dims, latent):
        if dims.names is None:
            raise ValueError("GeneSets match genes by name, and these cells have no names of genes: Cells(genes=...)")
        if latent < len(self.sets):
            raise ValueError(
                f"there are {len(self.sets)} gene sets and latent={latent}: latent must be at least as large"
            )
        place = {name: g for g, name in enumerate(dims.names)}
        mask = torch.ones(dims.genes, latent)
        for j, (name, genes) in enumerate(self._pairs):
            known = [place[gene] for gene in genes if gene in place]
            if not known:
                raise ValueError(f"gene set {name!r}: the data have none of its genes, {listed(genes)}")
            mask[:, j] = 0
            mask[known, j] = 1
        return mask
