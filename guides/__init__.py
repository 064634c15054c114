"""The zoo of guides: one file for each posterior family, or way of reading a cell."""

from typing import TYPE_CHECKING, Any

from pyroscvi.catalogue import public_class

if TYPE_CHECKING:
    from pyroscvi.guides.flow import Flow
    from pyroscvi.guides.full_covariance import FullCovariance
    from pyroscvi.guides.low_rank import LowRank
    from pyroscvi.guides.mean_field import MeanField
    from pyroscvi.guides.spatial_gnn import SpatialGNN
    from pyroscvi.guides.structured import Structured

__all__ = ["Flow", "FullCovariance", "LowRank", "MeanField", "SpatialGNN", "Structured"]


def __getattr__(name: str) -> Any:
    """Import a page when it is first used: some pages need libraries that take seconds to import."""
    return public_class(__name__, name)
