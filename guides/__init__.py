"""The zoo of guides: one posterior family, or one way of reading a cell, a file."""

from pyroscvi.guides.full_covariance import FullCovariance
from pyroscvi.guides.low_rank import LowRank
from pyroscvi.guides.mean_field import MeanField
from pyroscvi.guides.spatial_gnn import SpatialGNN

__all__ = ["FullCovariance", "LowRank", "MeanField", "SpatialGNN"]
