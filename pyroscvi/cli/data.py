"""Reads the files that the command line is given."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from pyroscvi.cli.grouped import Genes
from pyroscvi.data.cells import Cells
from pyroscvi.data.coarse import coarse, read_tree
from pyroscvi.data.columns import column
from pyroscvi.data.datasets import highly_variable
from pyroscvi.data.fields import Fields
from pyroscvi.data.files import Opened, opened
from pyroscvi.data.reading import read, stays_on_disk
from pyroscvi.data.stored import Stored

BELIEF = "pyroscvi_belief"  # in obsm: the weights of types that labels of a tree allow
MAX_CELLS_FOR_GENES = 20_000  # cells on disk from which variable genes are chosen


def read_cells(
    file: Path, fields: dict[str, Any], reading: dict[str, Any], genes: Genes, annotations: Path | None = None,
    tree: Path | None = None,
) -> tuple[Cells, pd.DataFrame]:  # fmt: skip
    """The cells of a file in memory, at its variable genes or those of a list if they are asked for; and their obs.

    tree  a file with a tree of labels: each is a belief over the types below it
    """
    adata = read(file, annotations)
    if tree is not None:
        fields = _believed(adata, fields, read_tree(tree))
    names = genes.named()
    if genes.hvg is not None:
        names = highly_variable(adata, genes.hvg, fields["counts"], fields["batch"], genes.hvg_by)
    cells = Fields(**fields, genes=names).read(adata, **reading)
    return cells, adata.obs.loc[cells.names]


def _believed(adata: AnnData, fields: dict[str, Any], tree: dict[str, str]) -> dict[str, Any]:
    """The fields, with beliefs in place of labels: a weight for each type that a label of the tree allows."""
    if fields["label"] is None or fields["belief"] is not None:
        raise ValueError("--label-tree is a tree of the labels in --label, and takes the place of --belief")
    labels = column(adata.obs, fields["label"], "label").astype(object)
    if fields["unlabelled"] is not None:
        labels = labels.mask(labels.astype(str) == fields["unlabelled"])
    adata.obsm[BELIEF] = coarse(labels, tree)
    return {**fields, "label": None, "unlabelled": None, "belief": BELIEF}


def open_cells(
    place: Path, fields: dict[str, Any], reading: dict[str, Any], genes: Genes, seed: int
) -> tuple[Cells, pd.DataFrame]:
    """The cells of a file or a folder of files, with their counts left on disk; and their obs.

    Variable genes are chosen on 20,000 random cells, or on all if there are fewer.
    """
    files = opened(place)
    data = files.in_memory if isinstance(files, Opened) else {key: file.in_memory for key, file in files.items()}
    names = genes.named()
    cells = Fields(**fields, genes=names).open(data, **reading)
    if genes.hvg is not None:
        drawn = torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))[:MAX_CELLS_FOR_GENES]
        some = cells.take(drawn.sort().values)
        obs = pd.DataFrame({} if some.batch is None else {"batch": some.batch.numpy().astype(str)}, index=some.names)
        adata = AnnData(X=some.counts, obs=obs, var=pd.DataFrame(index=np.asarray(cells.genes, dtype=object)))
        batch = None if some.batch is None else "batch"
        names = highly_variable(adata, genes.hvg, batch=batch, flavor=genes.hvg_by)
        cells = Fields(**fields, genes=names).open(data, **reading)
    stored = cast(Stored, cells.counts)
    obs = data.obs if isinstance(data, AnnData) else pd.concat([adata.obs for adata in data.values()])
    return cells, obs.iloc[stored.rows].set_axis(cells.names)  # cells without counts may be left out


def fitting_cells(
    place: Path, fields: dict[str, Any], reading: dict[str, Any], genes: Genes, annotations: Path | None,
    tree: Path | None, backed: bool, seed: int,
) -> tuple[Cells, pd.DataFrame]:  # fmt: skip
    """The cells to fit to and their obs, with counts on disk where that is asked for, or usual for such files."""
    for_memory = {"--annotations": annotations, "--label-tree": tree, "--spatial": fields["spatial"]}
    in_memory = next((option for option, value in for_memory.items() if value), "")
    if backed and (annotations or tree):
        raise ValueError(f"{in_memory} is for cells in memory: leave out --backed, or write it into the files")
    if backed or (stays_on_disk(place) and not in_memory):
        return open_cells(place, fields, reading, genes, seed)
    if in_memory and reading["genes"] == "union":
        raise ValueError(
            f"--join union leaves counts on disk, and {in_memory} reads them into memory: give one of them"
        )
    return read_cells(place, fields, reading, genes, annotations, tree)


def split_off(cells: Cells, obs: pd.DataFrame, fraction: float, by: str | None, groups: str | None, seed: int) -> Any:
    """Cells to fit to, and those that are held out: of every level of the field ``by``, or of a column whole levels."""
    if groups is None:
        return cells.split(fraction, by=by, seed=seed)
    return cells.split(fraction, groups=column(obs, groups, "--split-by").to_numpy(), seed=seed)
