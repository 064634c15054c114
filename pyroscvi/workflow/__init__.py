"""From cells to the figures of a paper in one call: ``analyse``."""
