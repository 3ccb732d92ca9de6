"""Define the dtype rules: the dtypes of inputs and outputs, and the casts that are allowed.

The package imports all dtype rules from here. `dtypes` has the part that concerns dtypes alone, without values.

Inputs: tensors keep their dtype. Python floats and float64 arrays take the floating dtype of the tensors in the same
call, or float32 if there is none. Python integers take a dtype from these tensors too, never from their own values.
Outputs: the dtype is the declared dtype or the result type of the inputs. A result is cast only within its kind or to a
wider kind, and no finite value may become infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tfpyop._spec.array_like import Array as Array
from tfpyop._spec.array_like import to_array
from tfpyop._spec.dtypes import KINDS
from tfpyop._spec.dtypes import STRING as STRING
from tfpyop._spec.dtypes import DType as DType
from tfpyop._spec.dtypes import DTypeContext as DTypeContext
from tfpyop._spec.dtypes import complex_dtype as complex_dtype
from tfpyop._spec.dtypes import dtype_kind as dtype_kind
from tfpyop._spec.dtypes import finfo as finfo
from tfpyop._spec.dtypes import is_differentiable as is_differentiable
from tfpyop._spec.dtypes import is_half as is_half
from tfpyop._spec.dtypes import parse_dtype as parse_dtype
from tfpyop._spec.dtypes import real_dtype as real_dtype
from tfpyop._spec.dtypes import result_dtype as result_dtype
from tfpyop._spec.dtypes import ufunc_output_dtypes as ufunc_output_dtypes
from tfpyop.errors import CoercionError, describe, shown

_INPUT_REMEDY = (
    "If it is an input, convert it to an array. If not, make its parameter keyword-only, or name it in static_argnames."
)
_RETURN_REMEDY = (
    "Return an array. For several outputs, name them in the signature, or give dtype= as a tuple or dict of the same "
    "form."
)


def coerce_input(value: Any, partners: DTypeContext, *, what: str) -> Array:
    """Convert a value that is not a tensor to the dtype that it has as an input.

    Args:
      value: A Python number, a string, a list of numbers or strings, or a numpy array.
      partners: The dtypes of the tensors in the same call.
      what: The name of the value in error messages.
    """
    array = to_array(value, what=what, remedy=_INPUT_REMEDY)
    kind = dtype_kind(array.dtype)
    if kind in "USO":
        return _as_strings(array, what)
    if kind not in KINDS:
        raise CoercionError(
            f"{what} has a dtype that TensorFlow does not support.",
            expected="numbers, booleans or strings",
            got=describe(array.dtype, array.shape),
            remedy="Convert it with numpy first, for example x.astype(np.int64).",
        )
    if kind in "ui" and not isinstance(value, np.ndarray | np.generic):
        return _cast_python_integers(array, partners, what)
    if kind == "f" and array.dtype.itemsize >= 8 and array.dtype.kind == "f":
        return cast(array, partners.floating or np.dtype(np.float32), what=what, advise=_advise_input)
    if kind == "c" and array.dtype.itemsize >= 16:
        return cast(array, complex_dtype(partners.floating or np.dtype(np.float32)), what=what, advise=_advise_input)
    return array


def _cast_python_integers(array: Array, partners: DTypeContext, what: str) -> Array:
    """Cast Python integers to a dtype that does not depend on their values."""
    if partners.floating is not None:
        return cast(array, partners.floating, what=what, advise=_advise_input)
    dtype = np.dtype(np.int32) if partners.integer is None else partners.integer
    if _fits(array, dtype):
        return array.astype(dtype)
    rule = "become int32" if partners.integer is None else "take the dtype of the integer tensors in the call"
    raise _overflow(array, dtype, what, f"Python integers {rule}. For another dtype, pass np.{array.dtype}(x).")


Advice = Callable[[DType, DType], str]
"""A function that returns the remedy for a result of the wrong kind, from its actual and its expected dtype."""


def advise_undeclared(actual: DType, promised: DType) -> str:
    """Return the remedy for an output whose dtype is inferred from the inputs."""
    if dtype_kind(actual) == "f" and promised != STRING:
        return f"Pass floating inputs (2.0 instead of 2), convert the result, or declare dtype={_written(actual)}."
    return advise_declared(actual, promised)


def advise_declared(actual: DType, promised: DType) -> str:
    """Return the remedy for an output whose dtype the user declared."""
    if dtype_kind(actual) == "c":
        complex_ = complex_dtype(real_dtype(actual))
        return f"Return the real part, or declare dtype={_written(complex_)}."
    if actual == STRING or actual.kind in "US":
        return 'Declare dtype="string".'
    if promised == STRING:
        return f"Return strings, or declare dtype={_written(actual)}."
    if dtype_kind(actual) not in KINDS:
        return "Return numbers: TensorFlow does not support this dtype."
    return f"Declare dtype={_written(actual)}, or convert the result in the function."


def advise_residual(name: str) -> Advice:
    """Return the function that makes the remedy for a residual."""

    def advise(actual: DType, promised: DType) -> str:
        return f'Declare residuals={{"{name}": (..., {_written(actual)})}}, or convert it in the function.'

    return advise


def advise_rule(place: str) -> Advice:
    """Return a function that returns the remedy for a value that a numpy rule returned.

    Args:
      place: The value of the call whose dtype it must have, such as `op.inputs[0]`.
    """

    def advise(actual: DType, promised: DType) -> str:
        if dtype_kind(actual) != "c":
            return "Return numbers."
        what = "input" if "input" in place else "output"
        return f"If the {what} is real, return the real part: np.real(c) if np.isrealobj({place}) else c."

    return advise


def coerce_output(value: Any, dtype: DType, *, what: str, advise: Advice = advise_undeclared) -> Array:
    """Convert a value that a function returned to an array of the expected dtype, or raise an error.

    Args:
      value: The returned value.
      dtype: The expected dtype.
      what: The name of the value in error messages.
      advise: Returns the remedy in the error message if the value is of another kind.

    Raises:
      CoercionError: The value is not an array, is of another kind, or holds a finite number too large for the dtype.
    """
    array = value if type(value) is np.ndarray and value.dtype.kind not in "OT" else as_array(value, what)
    if array.dtype == dtype and dtype != STRING:
        return array
    kind, wanted = dtype_kind(array.dtype), dtype_kind(dtype)
    if dtype == STRING and kind in "USO":
        return _as_strings(array, what)
    if kind == "i" and wanted == "u" and not isinstance(value, np.ndarray | np.generic):
        return cast(array, dtype, what=what)
    if kind in KINDS and wanted in KINDS and KINDS.index(kind) <= KINDS.index(wanted):
        return cast(array, dtype, what=what)
    raise CoercionError(
        f"{what} has the wrong dtype.",
        expected=describe(dtype, array.shape),
        got=describe(array.dtype, array.shape),
        remedy=advise(array.dtype, dtype),
    )


def _advise_input(actual: DType, wanted: DType) -> str:
    """For an input that is not a tensor, whose value its dtype as an input cannot hold."""
    if dtype_kind(actual) in "ui":
        return f"Pass np.float64(x) if the rounding is acceptable, or np.{actual}(x) to pass integers."
    if _is_long(actual):
        return f"Scale the values, or pass tf.constant(x.astype(np.{_tensor_dtype(actual)}))."
    return f"Scale the values, or pass tf.constant(x, tf.{actual})."


def advise_computed(actual: DType, wanted: DType) -> str:
    """For an input that `compute_dtype=` cannot hold."""
    return f"Scale the values, or change compute_dtype={_written(wanted)}."


def _advise_scaling(actual: DType, wanted: DType) -> str:
    return f"Scale the values, or use {_tensor_dtype(actual)} for tensors and dtype=."


def _tensor_dtype(dtype: DType) -> DType:
    """The widest dtype of tensors for numbers of this dtype: they have no long doubles."""
    return {"f": np.dtype(np.float64), "c": np.dtype(np.complex128)}[dtype.kind] if _is_long(dtype) else dtype


def _is_long(dtype: DType) -> bool:
    return dtype.kind in "fc" and real_dtype(dtype).itemsize > 8


def as_array(value: Any, what: str, *, remedy: str = _RETURN_REMEDY) -> Array:
    """Convert a value that a function returned to an array without a change of dtype, or raise CoercionError."""
    return to_array(value, what=what, remedy=remedy)


def cast(array: Array, dtype: DType, *, what: str, advise: Advice | None = None) -> Array:
    """Cast an array to the same kind or a wider kind.

    Raises:
      CoercionError: A finite value is too large for the dtype, or an integer has no exact floating representation.
    """
    if array.dtype == dtype:
        return array
    remedy = (advise or _advise_scaling)(array.dtype, dtype)
    if dtype_kind(dtype) in "ui":
        if not _fits(array, dtype):
            raise _overflow(array, dtype, what, remedy)
        return array.astype(dtype)
    try:
        with np.errstate(all="ignore", over="raise"):
            result = array.astype(dtype)
    except FloatingPointError:
        raise _overflow(array, dtype, what, remedy) from None
    is_extension = "V" in (dtype.kind, array.dtype.kind)  # their casts do not report overflow
    if dtype_kind(array.dtype) in "ui" and not _holds_exactly(result, array):
        rounded = f"x.astype({'ml_dtypes' if dtype.kind == 'V' else 'np'}.{dtype})"
        raise CoercionError(
            f"{what} has integers that {dtype} cannot hold exactly.",
            expected=describe(dtype, array.shape),
            got=describe(array.dtype, array.shape),
            remedy=advise(array.dtype, dtype)
            if advise
            else f"Declare dtype={_written(array.dtype)}, or round explicitly: {rounded}.",
        )
    if is_extension and not np.isfinite(result).all() and (np.isfinite(array) & ~np.isfinite(result)).any():
        raise _overflow(array, dtype, what, remedy)
    return result


def _holds_exactly(result: Array, integers: Array) -> bool:
    with np.errstate(all="ignore"):
        return np.array_equal(result.real.astype(integers.dtype), integers)


def widen(array: Array, compute_dtype: DType, *, what: str, advise: Advice | None = None) -> Array:
    """Cast a floating or complex array to the dtype in which a function computes. Return other arrays unchanged."""
    kind = dtype_kind(array.dtype)
    if kind == "f":
        return cast(array, compute_dtype, what=what, advise=advise)
    return cast(array, complex_dtype(compute_dtype), what=what, advise=advise) if kind == "c" else array


def in_float64(array: Array) -> Array:
    """Cast a floating or complex array to double precision. Return other arrays unchanged."""
    return widen(array, np.dtype(np.float64), what="an input")


def _as_strings(array: Array, what: str) -> Array:
    """Convert strings to the form that TensorFlow accepts: an object array of bytes, with text encoded in UTF-8."""
    result = np.empty(array.shape, dtype=object)
    try:
        for index, item in np.ndenumerate(array):
            result[index] = item.encode() if isinstance(item, str) else bytes(item)
    except UnicodeEncodeError as error:
        raise CoercionError(
            f"{what} has text that UTF-8 cannot encode.",
            got=shown(str(error.object)),
            remedy='Encode the text first, for example text.encode(errors="surrogateescape").',
        ) from None
    return result


def _fits(array: Array, dtype: DType) -> bool:
    if array.size == 0 or dtype_kind(array.dtype) == "b":
        return True
    smallest, largest = _integer_limits(dtype)
    return int(array.min()) >= smallest and int(array.max()) <= largest


def _integer_limits(dtype: DType) -> tuple[int, int]:
    if dtype.kind == "V":
        import ml_dtypes

        limits = ml_dtypes.iinfo(dtype)
    else:
        limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _overflow(array: Array, dtype: DType, what: str, remedy: str) -> CoercionError:
    parts = [part[np.isfinite(part)] for part in (array.real, array.imag)]
    extremes = [extreme for part in parts if part.size for extreme in (part.min(), part.max())]
    if dtype_kind(dtype) in "ui":
        smallest, _ = _integer_limits(dtype)
        least, most = extremes[:2]
        outside = least if int(least) < smallest else most
    else:
        outside = max(extremes, key=lambda extreme: abs(extreme.item()))
    if _is_long(array.dtype) and not np.isfinite(np.float64(outside)):
        remedy = "Scale the values: no dtype of tensors has numbers of this size."
    return CoercionError(
        f"{what} has a finite value outside the range of {dtype}.",
        expected=describe(dtype, array.shape),
        got=f"{describe(array.dtype, array.shape)} with {_short(outside)}",
        remedy=remedy,
    )


def _short(number: Any) -> str:
    """Render a number by three digits, also one that no Python float can hold."""
    if _is_long(number.dtype):
        return np.format_float_scientific(number, precision=2, trim="-").replace(".e", "e")
    return f"{number.item():.3g}"


def _written(dtype: DType) -> str:
    """Return a dtype as Python source text."""
    if dtype.kind in "OSU":
        return '"string"'
    return f'"{dtype}"' if dtype.kind == "V" else f"np.{dtype}"
