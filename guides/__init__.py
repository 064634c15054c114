"""The zoo of guides: one posterior family, or one way of reading a cell, a file."""

from typing import TYPE_CHECKING, Any

from pyroscvi.catalogue import public_class

if TYPE_CHECKING:
    from pyroscvi.guides.full_covariance import FullCovariance as FullCovariance
    from pyroscvi.guides.low_rank import LowRank as LowRank
    from pyroscvi.guides.mean_field import MeanField as MeanField
    from pyroscvi.guides.spatial_gnn import SpatialGNN as SpatialGNN


def __getattr__(name: str) -> Any:
    """A page is imported when it is asked for: one of them needs a library that takes seconds to load."""
    return public_class(__name__, name)
