"""A survey of counts on disk: one pass over a file, in which every count is looked at."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.progress import track

from pyroscvi.data.checks import Tally, remedy, source_of
from pyroscvi.data.files import Opened
from pyroscvi.data.stored import Source, Stored

__all__ = ["laid", "surveyed"]


def surveyed(found: Opened, layer: str | None, columns: np.ndarray, genes: Sequence[str], name: str = "") -> Stored:
    """The counts of a file, once each of them was looked at; a bar shows how far this is, on a terminal.

    columns  the column of every gene in the file, -1 where it is missing   [g]
    name     of the file, for what is said of it
    """
    matrix, place = source_of(found.file, layer)
    where = f"{name}: {place}" if name else place
    if getattr(matrix, "format", "csr") == "csc":
        raise ValueError(
            f"{where} is stored gene by gene (csc), so that every cell is spread over the whole file. Write it cell by "
            "cell, adata.X = adata.X.tocsr(), or read it into memory, Fields(...).read(adata)"
        )
    n = found.told.n_obs
    nothing = np.zeros(n)
    counts = Stored((Source(matrix, columns),), found.rows, nothing, nothing, 0, np.dtype(matrix.dtype))
    totals, filled, seen = [nothing[:0]], [nothing[:0]], np.zeros(len(columns))
    tally, start = Tally(), 0
    console = Console(stderr=True)
    for block in track(
        counts.blocks(),
        f"looking at {where}",
        total=counts.steps,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ):
        tally.look(block, start)
        weights = block.data.astype(np.float64, copy=False)
        row = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        totals.append(np.bincount(row, weights, block.shape[0]))
        filled.append(np.diff(block.indptr))
        seen += np.bincount(block.indices, weights, len(columns))
        start += block.shape[0]
    tally.check(found.told.obs_names, genes, where, lambda: remedy(found.file))
    return Stored(
        counts.sources, found.rows, np.concatenate(totals), np.concatenate(filled), tally.largest, counts.dtype, seen
    )


def laid(several: Sequence[Stored]) -> Stored:
    """The counts of several files, end to end."""
    firsts = np.cumsum([0, *(sum(map(len, one.sources)) for one in several)])
    return Stored(
        sources=tuple(source for one in several for source in one.sources),
        rows=np.concatenate([one.rows + first for one, first in zip(several, firsts, strict=False)]),
        totals=np.concatenate([one.totals for one in several]),
        filled=np.concatenate([one.filled for one in several]),
        largest=max(one.largest for one in several),
        seen=np.sum([one.genes for one in several], axis=0),
        dtype=np.result_type(*(one.dtype for one in several)),
    )
