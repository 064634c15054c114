"""Types of the numbers that a part is declared with. A number out of its range is refused when it is declared.

>>> from pyroscvi.parts import Mixture
>>> Mixture(components=0)
Traceback (most recent call last):
ValueError: Mixture: components must be a whole number of 1 or more, not 0 (the default is 8)
"""

from collections.abc import Callable
from math import inf, isfinite
from numbers import Integral, Real
from typing import Annotated, Any, NamedTuple


class Range(NamedTuple):
    """The values that a field may have: in words, and as a test."""

    words: str
    contains: Callable[[Any], bool]


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _between(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Real) and not isinstance(value, bool) and low <= float(value) <= high


def _widths(value: Any) -> bool:
    return all(map(_whole, value)) if isinstance(value, tuple | list) else _whole(value)


PositiveInt = Annotated[int, Range("a whole number of 1 or more", _whole)]
PositiveFloat = Annotated[float, Range("a number above 0", lambda v: _between(0, inf)(v) and v > 0 and isfinite(v))]
Finite = Annotated[float, Range("a finite number", lambda v: _between(-inf, inf)(v) and isfinite(v))]
Fraction = Annotated[float, Range("a number from 0 to 1", _between(0, 1))]
Dropout = Annotated[float, Range("a probability, 0 or more and below 1", lambda v: _between(0, 1)(v) and v < 1)]
Widths = Annotated[int | tuple[int, ...], Range("a whole number of 1 or more, or a tuple of such numbers", _widths)]
