"""Data: what was counted, and what is known of each cell."""

from pyroscvi.data.ambient import ambient
from pyroscvi.data.cells import Cells, Dims
from pyroscvi.data.datasets import highly_variable, pbmc68k_reduced, simulated
from pyroscvi.data.edges import Delaunay, Given, Nearest, Radius
from pyroscvi.data.fields import Fields
from pyroscvi.data.proteins import from_mudata
from pyroscvi.data.reading import coco, read
from pyroscvi.data.tcga import tcga

__all__ = [
    "Cells", "Delaunay", "Dims", "Fields", "Given", "Nearest", "Radius", "ambient", "coco", "from_mudata",
    "highly_variable", "pbmc68k_reduced", "read", "simulated", "tcga",
]  # fmt: skip
