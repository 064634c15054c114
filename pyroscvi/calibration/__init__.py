"""Calibration: are the posteriors of a fitted model right, and does it generate cells like those that it was fitted to?

calibrate(fit)                  ranks of the truth among posterior draws, on cells that the fit has simulated
predictive_check(fit, cells)    statistics of cells and of their replicates
"""

from pyroscvi.calibration.predictive import Check, predictive_check
from pyroscvi.calibration.simulation_based import Calibration, calibrate

__all__ = ["Calibration", "Check", "calibrate", "predictive_check"]
