"""Numbers: the elements of arrays as strategies draw them, inside of an interval and of a dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy as Strategy

from tfpyop._coercion import DType, dtype_kind
from tfpyop._domain import Interval

SMALLEST = 1e-12
"""Squares and products of smaller magnitudes leave single precision."""


_DECADES = 1e3


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """How small and how large numbers may be."""

    smallest: float
    largest: float


def input_dtype(dtype: DType, interval: Interval) -> DType:
    return np.dtype(np.int32) if interval.is_integer and dtype_kind(dtype) not in "iu" else dtype


def elements(
    interval: Interval, dtype: DType, magnitudes: Magnitudes, *, special: Sequence[float] = ()
) -> Strategy[Any]:
    """Numbers of an interval: simple ones, then ones of every magnitude."""
    dtype = input_dtype(dtype, interval)
    kind = dtype_kind(dtype)
    if kind == "b":
        return st.booleans()
    if kind in "iu":
        limits = np.iinfo(dtype)
        largest = min(_largest(interval, magnitudes), 2.0**63)
        low = int(max(interval.first_integer, limits.min, -largest))
        high = int(min(interval.last_integer, limits.max, largest))
        return st.integers(max(low, min(high, -9)), min(high, max(low, 9))) | st.integers(low, high)
    if kind == "c":
        part = elements(interval, np.dtype(f"f{dtype.itemsize // 2}"), magnitudes, special=special)
        return st.builds(complex, part, part)
    return _floats(interval, dtype, magnitudes, special=special)


def _floats(interval: Interval, dtype: DType, magnitudes: Magnitudes, *, special: Sequence[float]) -> Strategy[float]:
    largest = _largest(interval, magnitudes)
    is_bounded = math.isfinite(interval.low) or math.isfinite(interval.high)
    whole = [float(number) for number in range(-10, 11) if interval.contains(np.float64(number))]
    strategies = [st.sampled_from(sorted(whole, key=abs))] if whole else []
    limits = [limit for limit in (min(10.0, largest), min(1e3, largest), largest) if _reaches(interval, limit)]
    if not (limits or whole):  # a point
        limits = [math.inf]
    if _reaches(interval, 1e-3) and magnitudes.smallest < 1e-3:
        limits.append(1e-3)
    strategies += [_floats_between(interval, limit, dtype, magnitudes.smallest) for limit in limits]
    return st.one_of(*strategies, *([st.sampled_from(special)] if special and not is_bounded else []))


def _largest(interval: Interval, magnitudes: Magnitudes) -> float:
    """The largest magnitude; where all of an interval lies beyond, some decades more than its nearer end."""
    nearer_end = max(interval.low, -interval.high, 0.0)
    return magnitudes.largest if nearer_end < magnitudes.largest else nearer_end * _DECADES


def _reaches(interval: Interval, limit: float) -> bool:
    """Whether there is more of an interval than its ends between plus and minus a limit."""
    return max(interval.low, -limit) < min(interval.high, limit)


def _floats_between(interval: Interval, limit: float, dtype: DType, smallest: float) -> Strategy[float]:
    width: Literal[16, 32, 64] = 64 if dtype.itemsize == 8 else 32 if dtype.itemsize == 4 else 16
    scalar = {16: np.float16, 32: np.float32, 64: np.float64}[width]
    limits = np.finfo(f"f{width // 8}")
    limit = min(limit, float(limits.max))
    low, high = float(scalar(max(interval.low, -limit))), float(scalar(min(interval.high, limit)))
    drawn = st.floats(
        None if math.isinf(low) else low,
        None if math.isinf(high) else high,
        allow_nan=False,
        allow_infinity=False,
        allow_subnormal=False,
        width=width,
    )
    smallest = float(scalar(max(smallest, float(limits.smallest_normal))))
    small = next((value for value in (0.0, smallest, -smallest) if interval.contains(np.float64(value))), None)
    rounded = drawn if small is None else drawn.map(lambda number: small if abs(number) < smallest else number)
    return rounded.filter(lambda number: bool(interval.contains(np.float64(number))))
