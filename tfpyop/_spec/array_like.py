"""Array-likes: the arrays of what users pass and return, before any rule about dtypes.

Owns what numpy would do silently, or not survive: text cut and mixed with numbers, integers rounded to floats, masks
dropped, and lists that contain themselves.
"""

from __future__ import annotations

import operator
from collections import UserList, deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tfpyop.errors import CoercionError, shown, text_of

Array = np.ndarray[Any, Any]

_LISTS = (list, tuple, deque, UserList)
"""Sequences that numpy looks into, item by item."""
_DEEPEST = 64
"""The most dimensions that an array of numpy can have."""
_NUMBERS = frozenset({bool, int, float, complex, np.float64, np.float32, np.int64, np.int32, np.bool_})
"""Types that need no second look."""
_EXACT_IN_FLOAT64 = 2**53
_INTEGER_DTYPES = (np.dtype(np.int64), np.dtype(np.uint64))


_PLAIN = frozenset({bool, int, float, complex})
_NUMPY = (np.ndarray, np.generic)


def to_array(value: Any, *, what: str, remedy: str) -> Array:
    """Convert a value to an array of numbers, or an object array of strings, in native byte order.

    Args:
      value: What a user passed or returned.
      what: How errors call the value.
      remedy: What errors advise where no array can be made of the value.

    Raises:
      CoercionError: The value is not an array of numbers or strings, or would lose something if it became one.
    """
    if isinstance(value, str | bytes):
        return np.array(value, dtype=object)
    _refuse_masked(value, what)
    # What cannot raise stays out of the `try`, which would take an exception of a signal handler for the value's own.
    is_number = type(value) in _PLAIN or isinstance(value, _NUMPY)
    array = np.asarray(value) if is_number else _converted(value, what, remedy)
    if array.dtype.kind == "T":  # numpy's text of any length
        array = array.astype(object)
    if array.dtype == object:
        return array if _holds_strings(array) else _numbers(array, value, what, remedy)
    if array.dtype.kind == "f" and isinstance(value, _LISTS) and _may_be_rounded(array):
        array = _unrounded(array, value, what)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _converted(value: Any, what: str, remedy: str) -> Array:
    has_text = isinstance(value, _LISTS) and _has_text(value, what)
    try:
        return np.asarray(value, dtype=object if has_text else None)
    except MemoryError:
        raise
    except Exception as error:  # of numpy, or of the value's own code
        if isinstance(error, ValueError) and isinstance(value, Sequence):
            raise CoercionError(
                f"{what} is a nested list with rows of different lengths, which cannot become an array.",
                remedy="Pad the rows, or pass each row as a separate array.",
            ) from None
        raise CoercionError(
            f"{what} cannot be converted to an array.",
            got=f"{type(value).__name__}, which raises {type(error).__name__}: {text_of(error)}",
            remedy=remedy,
        ) from error


def require_levels(value: Any, what: str) -> None:
    """Raise CoercionError for a list that contains itself, or has a masked array in it, which no tensor can be."""
    if isinstance(value, _LISTS):
        _has_text(value, what)


def _refuse_masked(value: Any, what: str) -> None:
    if isinstance(value, np.ma.MaskedArray):
        raise CoercionError(f"{what} is a masked array, but tensors have no mask.", remedy="Use .filled(...) first.")


def _has_text(items: Iterable[Any], what: str, depth: int = 1) -> bool:
    """Check whether a list has text in it, which numpy would cut, or make of the numbers next to it.

    Raises:
      CoercionError: There is a masked array in it, or it has more levels than an array can have dimensions.
    """
    if depth > _DEEPEST:  # numpy would try each of the ways through a list that contains itself twice
        raise CoercionError(
            f"{what} is a list that contains itself, or is nested more than {_DEEPEST} levels deep.",
            expected=f"at most {_DEEPEST} dimensions",
            remedy="Convert it to an array first.",
        )
    found = False
    for item in items:
        if type(item) in _NUMBERS:
            continue
        if isinstance(item, str | bytes):
            found = True
        elif isinstance(item, _LISTS):
            found = _has_text(item, what, depth + 1) or found
        elif isinstance(item, np.ndarray):
            _refuse_masked(item, what)
            found = found or item.dtype.kind in "USOT"
    return found


def _holds_strings(array: Array) -> bool:
    return all(isinstance(item, str | bytes) for item in array.flat)


def _numbers(array: Array, value: Any, what: str, remedy: str) -> Array:
    """Convert objects to numbers: integers of any size, and what Python takes for an integer as an index."""
    items = list(map(_as_number, array.flat))
    if not isinstance(value, np.ndarray) and None not in items:
        if all(isinstance(item, int | np.integer) for item in items):
            return _integers(items, array.shape, what)
        try:
            is_complex = any(isinstance(item, complex | np.complexfloating) for item in items)
            numbers: Array = np.array(items, dtype=complex if is_complex else float).reshape(array.shape)
            return numbers
        except OverflowError as error:
            raise _too_large(items, what) from error
    raise CoercionError(
        f"{what} is not a tensor, array, number or string.",
        got=f"{type(value).__name__}: {shown(value)}",
        remedy=remedy,
    )


def _as_number(item: Any) -> Any:
    """Return a number as it is, the index of an object that has one, and None for anything else."""
    if isinstance(item, bool | int | float | complex | np.number | np.bool_):
        return item
    try:
        return operator.index(item)
    except Exception:  # it is no integer; its own code may raise anything
        return None


def _may_be_rounded(array: Array) -> bool:
    """Check whether a float64 is so large that it may stand for an integer that float64 does not have."""
    with np.errstate(all="ignore"):
        return bool((np.abs(array) >= _EXACT_IN_FLOAT64).any())


def _unrounded(array: Array, value: Any, what: str) -> Array:
    """Return the integers of a list as integers, where numpy made floats of them because some need uint64."""
    items = list(np.asarray(value, dtype=object).flat)
    if all(isinstance(item, int | np.integer) for item in items):
        return _integers(items, array.shape, what)
    return array


def _integers(items: Sequence[Any], shape: tuple[int, ...], what: str) -> Array:
    integers = list(map(int, items))
    for dtype in _INTEGER_DTYPES:
        limits = np.iinfo(dtype)
        if limits.min <= min(integers) and max(integers) <= limits.max:
            return np.array(integers, dtype).reshape(shape)
    raise _too_large(integers, what)


def _too_large(items: Sequence[Any], what: str) -> CoercionError:
    integers = [int(item) for item in items if isinstance(item, int | np.integer)]
    return CoercionError(
        f"{what} has integers that no integer dtype can hold.",
        expected="integers from -2**63 to 2**63 - 1, or from 0 to 2**64 - 1",
        got=f"integers from {_short(min(integers))} to {_short(max(integers))}"
        if len(integers) > 1
        else _short(*integers),
        remedy="Convert them to floats if the rounding is acceptable: float(x).",
    )


def _short(integer: int) -> str:
    """Render an integer, by its bits if it is long: Python refuses to write very long ones."""
    n_bits = integer.bit_length()
    if n_bits <= 128:
        return str(integer)
    return f"-2**{n_bits - 1} or less" if integer < 0 else f"2**{n_bits - 1} or more"
