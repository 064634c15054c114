"""Data: what was counted, and what is known of each cell."""

from pyroscvi.data.cells import Cells, Dims
from pyroscvi.data.datasets import highly_variable, pbmc68k_reduced, simulated
from pyroscvi.data.fields import Fields

__all__ = ["Cells", "Dims", "Fields", "highly_variable", "pbmc68k_reduced", "simulated"]
