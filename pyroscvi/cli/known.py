"""What is known before a fit, for pages that take it: ``--known`` of ``pyroscvi fit``."""

from pathlib import Path
from typing import Any

from pyroscvi.analysis.signatures import signatures
from pyroscvi.data.ambient import ambient
from pyroscvi.data.cells import Cells
from pyroscvi.data.fields import Fields
from pyroscvi.data.reading import read
from pyroscvi.inference.seeds import seeded
from pyroscvi.models import Ambient, Deconvolution
from pyroscvi.names import listed
from pyroscvi.program import Model


def known(
    model: Model, file: Path, types: str | None, cells: Cells, *, counts: str | None = None, seed: int = 0
) -> Model:  # fmt: skip
    """The model sized on these cells, with what a file tells: signatures of annotated cells, or of empty droplets."""
    adata: Any = read(file)
    counts = counts if counts in adata.layers else None
    missing = [gene for gene in cells.genes or () if gene not in adata.var_names]
    if missing:
        raise ValueError(f"{file} lacks {len(missing):,} of the genes of the cells: {listed(missing)}")
    with seeded(seed):
        if isinstance(model, Deconvolution):
            if types is None:
                raise ValueError("--known has annotated cells: name the column of their types with --known-types")
            reference = Fields(counts=counts, label=types, genes=cells.genes).read(adata)
            return model.known(signatures(reference), cells)
        if isinstance(model, Ambient):
            return model.known(*ambient(adata, counts=counts), cells)
    raise ValueError(f"--known is for deconvolution and ambient: {model!r} takes nothing that is known before")
