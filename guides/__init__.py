"""The zoo of guides: one posterior family, or one way of reading a cell, a file."""

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyroscvi.guides.full_covariance import FullCovariance as FullCovariance
    from pyroscvi.guides.low_rank import LowRank as LowRank
    from pyroscvi.guides.mean_field import MeanField as MeanField
    from pyroscvi.guides.spatial_gnn import SpatialGNN as SpatialGNN


def __getattr__(name: str) -> Any:
    """A page is imported when it is asked for: one of them needs a library that takes seconds to load."""
    module = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    try:
        return getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{module}":
            raise
    raise AttributeError(f"module {__name__!r} has no page {name!r}")
