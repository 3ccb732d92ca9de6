"""Convert the values that users pass and return to arrays, before any dtype rule applies.

Owns the cases that numpy handles silently or not at all: truncated text, text mixed with numbers, integers rounded to
floats, dropped masks, and lists that contain themselves.
"""

from __future__ import annotations

import operator
import sys
from collections import UserList, deque
from collections.abc import Iterable, Sequence
from numbers import Number
from typing import Any

import numpy as np

from tfpyop.errors import CoercionError, describe_kind, message_of, shown

Array = np.ndarray[Any, Any]

_LISTS = (list, tuple, deque, UserList)
"""Sequences that numpy converts item by item."""
_DEEPEST = 64
"""The maximum number of dimensions of a numpy array."""
_NUMBERS = frozenset({bool, int, float, complex, np.float64, np.float32, np.int64, np.int32, np.bool_})
"""Types that need no further check."""
_EXACT_IN_FLOAT64 = 2**53
_INTEGER_DTYPES = (np.dtype(np.int64), np.dtype(np.uint64))


_PLAIN = frozenset({bool, int, float, complex})
_NUMPY = (np.ndarray, np.generic)


def to_array(value: Any, *, what: str, remedy: str) -> Array:
    """Convert a value to an array of numbers, or to an object array of strings, in native byte order.

    Args:
      value: The value that a user passed or returned.
      what: The name of the value in error messages.
      remedy: The remedy in the error message if the value cannot become an array.

    Raises:
      CoercionError: The value is not an array of numbers or strings, or would lose information in the conversion.
    """
    if isinstance(value, str | bytes):
        return np.array(value, dtype=object)
    _refuse_masked(value, what)
    # The `try` excludes conversions that cannot raise. It would attribute a signal handler's exception to the value.
    is_number = type(value) in _PLAIN or isinstance(value, _NUMPY)
    array = np.asarray(value) if is_number else _converted(value, what, remedy)
    if array.dtype.kind == "T":  # numpy's variable-length strings
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
    except Exception as error:  # from numpy, or from the value's own code
        if isinstance(error, ValueError) and isinstance(value, Sequence):
            raise CoercionError(
                f"{what} is a nested list with rows of different lengths, which cannot become an array.",
                remedy="Pad the rows, or pass each row as a separate array.",
            ) from None
        raise CoercionError(
            f"{what} cannot be converted to an array.",
            got=f"{type(value).__name__}, which raises {type(error).__name__}: {message_of(error)}",
            remedy=remedy,
        ) from error


def is_sparse(value: Any) -> bool:
    """Return whether a value is a sparse matrix or array of SciPy. SciPy is not imported for this."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(value))


def require_levels(value: Any, what: str) -> None:
    """Raise CoercionError for a list that contains itself or a masked array, because no tensor can represent it."""
    if isinstance(value, _LISTS):
        _has_text(value, what)


def _refuse_masked(value: Any, what: str) -> None:
    if isinstance(value, np.ma.MaskedArray):
        raise CoercionError(f"{what} is a masked array, but tensors have no mask.", remedy="Use .filled(...) first.")


def _has_text(items: Iterable[Any], what: str, depth: int = 1) -> bool:
    """Return whether a list contains text. numpy would truncate the text, or convert the list's numbers to text.

    Raises:
      CoercionError: The list contains a masked array, or has more levels than an array can have dimensions.
    """
    if depth > _DEEPEST:  # numpy would follow every path through a list that contains itself twice
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
    """Convert objects to numbers: integers of any size, and objects that Python accepts as integer indices."""
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
    other = next((item for item in array.flat if isinstance(item, Number) and _as_number(item) is None), None)
    if other is not None:
        verb = "is" if array.ndim == 0 else "contains"
        raise CoercionError(
            f"{what} {verb} {describe_kind(other)}, which has no dtype.",
            got=f"{type(value).__name__}: {shown(value)}",
            remedy="Convert each number first: float(x).",
        )
    raise CoercionError(
        f"{what} is not a tensor, array, number or string.",
        got=f"{type(value).__name__}: {shown(value)}",
        remedy=remedy,
    )


def _as_number(item: Any) -> Any:
    """Return a number unchanged, the index of an object that has an index, and None for any other object."""
    if isinstance(item, bool | int | float | complex | np.number | np.bool_):
        return item
    try:
        return operator.index(item)
    except Exception:  # it is not an integer; its own code may raise anything
        return None


def _may_be_rounded(array: Array) -> bool:
    """Return whether an array has a float64 so large that it may be a rounded integer."""
    with np.errstate(all="ignore"):
        return bool((np.abs(array) >= _EXACT_IN_FLOAT64).any())


def _unrounded(array: Array, value: Any, what: str) -> Array:
    """Return the integers of a list as integers if numpy converted them to floats because some integers need uint64."""
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
    """Render an integer. Render a very long integer by its number of bits, because Python refuses to print it."""
    n_bits = integer.bit_length()
    if n_bits <= 128:
        return str(integer)
    return f"-2**{n_bits - 1} or less" if integer < 0 else f"2**{n_bits - 1} or more"
