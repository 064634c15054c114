"""Numbers of results as people read them, the same on the terminal and in a report.

>>> [number("low", 1.2345), number("p_change", 0.9999), number("expected_fdr", 3e-9), number("rate_group", 1234.5)]
['1.23', '1.000', '< 0.0001', '1,234']
"""

import math
from typing import Any

import pandas as pd

TWO_DIGITS = ("log2_fold_change", "log2_odds_ratio", "low", "high")


def number(column: str, value: float) -> str:
    """A number of this column as text; empty if it is missing."""
    if math.isnan(value):
        return ""
    if column == "expected_fdr":
        return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
    if column == "p_change":
        return f"{value:.3f}"
    return f"{value:.2f}" if column in TWO_DIGITS else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def as_text(table: pd.DataFrame, **options: Any) -> str:
    """A table for the terminal; ``options`` are those of ``DataFrame.to_string``."""
    floats = table.select_dtypes("float")
    shown = table.assign(**{name: [number(str(name), value) for value in floats[name]] for name in floats})
    return shown.to_string(**options)
