"""Models of other libraries as fits of this one."""

from pyroscvi.interop.scvi import from_scvi

__all__ = ["from_scvi"]
