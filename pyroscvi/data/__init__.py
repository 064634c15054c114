"""Data: what was counted, and what is known of each cell."""

from pyroscvi.data.cells import Cells, Dims
from pyroscvi.data.datasets import highly_variable, pbmc68k_reduced, simulated
from pyroscvi.data.fields import Fields
from pyroscvi.data.proteins import from_mudata

__all__ = ["Cells", "Dims", "Fields", "from_mudata", "highly_variable", "pbmc68k_reduced", "simulated"]
