"""Numbers: strategies for the elements of arrays, within an interval and a dtype."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy as Strategy

from tfpyop._spec.coercion import DType, dtype_kind, finfo
from tfpyop._spec.domain import Interval

SMALLEST = 1e-12
"""Smallest magnitude by default. Products of several smaller magnitudes underflow in single precision."""
_DECADES = 1e3


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """The smallest and the largest magnitude of drawn numbers."""

    smallest: float
    largest: float


def input_dtype(dtype: DType, interval: Interval) -> DType:
    """Return the dtype of an input if other inputs have `dtype`: an integer dtype if the interval requires integers."""
    if not interval.is_integer or dtype_kind(dtype) in "iu":
        return dtype
    single = np.dtype(np.int32)
    return np.dtype(np.int64) if within(interval, single).is_empty else single


def within(interval: Interval, dtype: DType) -> Interval:
    """Return the interval between the smallest and the largest finite number of a dtype in an interval."""
    kind = dtype_kind(dtype)
    if kind == "b":
        return Interval(0, 1, is_integer=True)
    if kind in "iu":
        limits = np.iinfo(dtype)
        first, last = max(interval.first_integer, limits.min), min(interval.last_integer, limits.max)
        return Interval(first, last, is_integer=True)
    part = np.dtype(f"f{dtype.itemsize // 2}") if kind == "c" else dtype
    largest = float(finfo(part).max)
    low, high = part.type(np.clip([interval.low, interval.high], -largest, largest))
    with np.errstate(over="ignore"):
        first = low if interval.contains(np.float64(low)) else np.nextafter(low, part.type(math.inf))
        last = high if interval.contains(np.float64(high)) else np.nextafter(high, part.type(-math.inf))
    return Interval(float(first), float(last))


def elements(
    interval: Interval, dtype: DType, magnitudes: Magnitudes, *, special: Sequence[float] = ()
) -> Strategy[Any]:
    """Draw numbers of a dtype in a non-empty interval: simple numbers first, then numbers of every magnitude."""
    kind = dtype_kind(dtype)
    if kind == "b":
        return st.booleans()
    if kind in "iu":
        inside = within(interval, dtype)
        largest = int(min(_largest(interval, magnitudes), 2.0**63))
        low, high = max(int(inside.low), -largest), min(int(inside.high), largest)
        return st.integers(max(low, min(high, -9)), min(high, max(low, 9))) | st.integers(low, high)
    if kind == "c":
        part = elements(interval, np.dtype(f"f{dtype.itemsize // 2}"), magnitudes, special=special)
        return st.builds(complex, part, part)
    return _floats(interval, dtype, magnitudes, special=tuple(special))


@functools.lru_cache(maxsize=256)  # strategies that are used again draw faster
def _floats(interval: Interval, dtype: DType, magnitudes: Magnitudes, *, special: tuple[float, ...]) -> Strategy[float]:
    inside, largest = within(interval, dtype), _largest(interval, magnitudes)
    is_bounded = math.isfinite(interval.low) or math.isfinite(interval.high)
    whole = [float(number) for number in range(-10, 11) if inside.contains(np.float64(number))]
    strategies = [st.sampled_from(sorted(whole, key=abs))] if whole else []
    limits = [limit for limit in (min(10.0, largest), min(1e3, largest), largest) if _reaches(inside, limit)]
    if not (limits or whole):  # the interval is a single point
        limits = [math.inf]
    if _reaches(inside, 1e-3) and magnitudes.smallest < 1e-3:
        limits.append(1e-3)
    strategies += [_floats_between(inside, limit, dtype, magnitudes.smallest) for limit in limits]
    return st.one_of(*strategies, *([st.sampled_from(special)] if special and not is_bounded else []))


def _largest(interval: Interval, magnitudes: Magnitudes) -> float:
    """Return the largest magnitude. If the whole interval is beyond it, return 1000 times the nearer end."""
    nearer_end = max(interval.low, -interval.high, 0.0)
    return magnitudes.largest if nearer_end < magnitudes.largest else nearer_end * _DECADES


def _reaches(interval: Interval, limit: float) -> bool:
    """Return whether an interval contains more than one point between plus and minus a limit."""
    return max(interval.low, -limit) < min(interval.high, limit)


def _floats_between(inside: Interval, limit: float, dtype: DType, smallest: float) -> Strategy[float]:
    """Draw floats up to a magnitude in an interval whose ends have this dtype."""
    width: Literal[16, 32, 64] = 64 if dtype.itemsize == 8 else 16 if dtype == np.float16 else 32
    both = within(Interval(max(inside.low, -limit), min(inside.high, limit)), dtype)
    drawn = st.floats(both.low, both.high, allow_nan=False, allow_infinity=False, allow_subnormal=False, width=width)
    rounded = drawn.map(lambda number: float(dtype.type(number)))
    smallest = float(dtype.type(max(smallest, float(finfo(dtype).smallest_normal))))
    small = next((value for value in (0.0, smallest, -smallest) if inside.contains(np.float64(value))), None)
    return rounded if small is None else rounded.map(lambda number: small if abs(number) < smallest else number)
