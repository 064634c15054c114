"""Calibration: are the posteriors of a fitted model right, and does it make cells like those that it was fitted to?"""

from pyroscvi.calibration.simulation_based import Calibration, calibrate

__all__ = ["Calibration", "calibrate"]
